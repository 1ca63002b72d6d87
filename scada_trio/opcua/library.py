"""python-opcua as a client needs it.

Owns the first import of the library. ``import opcua`` loads its server with the standard address space, its XML files
and lxml too, none of which a client calls, and the numbers of fourteen thousand nodes, of which it uses a few hundred:
15 MB in each process. They come here when somebody asks for them. Knows nothing of the service; the package's
``__init__`` calls it before any of its modules imports the library.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_SERVER: Final = {
    "opcua.server.server": ("Server",),
    "opcua.server.event_generator": ("EventGenerator",),
}
_XML: Final = {
    "opcua.common.xmlimporter": ("XmlImporter",),
    "opcua.common.xmlexporter": ("XmlExporter",),
    "opcua.common.structures": ("load_type_definitions", "load_enums"),
}
"""Called by methods of the library's client that import and export nodes."""

_IDS: Final = "opcua.ua.object_ids"


def import_client() -> None:
    """Import python-opcua without the modules above; each of their names still works, and loads its module then.

    Does nothing where somebody has imported it as it is.
    """
    if "opcua" in sys.modules:
        return
    unneeded = _SERVER | _XML
    for module, names in unneeded.items():
        stand_in = ModuleType(module)
        for name in names:
            setattr(stand_in, name, _on_first_call(module, name))
        sys.modules[module] = stand_in
    ids = sys.modules[_IDS] = ModuleType(_IDS)
    ids.ObjectIds, ids.ObjectIdNames = _ObjectIds, {}  # type: ignore[attr-defined]
    _ObjectIds.everything = _load_ids()
    try:
        opcua = import_module("opcua")
        import_module("opcua.common.shortcuts").Shortcuts(None)  # every client makes one, of forty nodes
    finally:
        _ObjectIds.everything = None
        gc.collect()  # a class is a ring: it goes before anything else comes to lie behind it
        for module in (*unneeded, _IDS):
            del sys.modules[module]
    del opcua.ua.ObjectIdNames
    vars(opcua.ua)["__getattr__"] = _names_of_ids
    for names in _SERVER.values():
        for name in names:
            delattr(opcua, name)  # these are classes, to be inherited from: the package gets the real ones
    vars(opcua)["__getattr__"] = _server_attribute


def _load_ids() -> ModuleType:
    """The library's own module, loaded beside the import system: it goes again when nobody holds it."""
    package = PathFinder.find_spec("opcua")
    assert package is not None
    assert package.origin is not None
    spec = spec_from_file_location(_IDS, Path(package.origin).parent / "ua" / "object_ids.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Known(type):
    """Has the numbers that were asked for; one that was not is looked up in ``everything``, or loads it for good."""

    everything: ModuleType | None = None

    def __getattr__(cls, name: str) -> int:
        if name.startswith("_"):
            raise AttributeError(name)
        value: int = getattr((cls.everything or import_module(_IDS)).ObjectIds, name)
        setattr(cls, name, value)
        return value


class _ObjectIds(metaclass=_Known):
    """Stands for the library's class of that name."""


def _names_of_ids(name: str) -> object:
    if name != "ObjectIdNames":
        raise AttributeError(f"module 'opcua.ua' has no attribute {name!r}")
    return import_module(_IDS).ObjectIdNames


def _on_first_call(module: str, name: str) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> object:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call


def _server_attribute(name: str) -> object:
    for module, names in _SERVER.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'opcua' has no attribute {name!r}")
