"""Coverage-guided fuzzing of all that reads bytes from a device: ``python -m tests.fuzzing --minutes 20``.

    __main__ ─► engine, a process a target: atheris ─► oracle ─► targets/<name>.run(bytes)
                                                         └ another error, too slow, too much memory ─► a file

``regressions/<target>/`` has the inputs that once did harm, by names that say what they are; ``corpus/<target>.zip``
those that a long run came to, one for each branch. `test_fuzzing_device.py` plays them, and some seconds of unguided
mutations, in the ordinary test suite; that needs no atheris.
"""
