"""python-opcua as a client needs it.

Owns the first import of the library. ``import opcua`` loads its server with the standard address space, its XML files
and lxml too, none of which a client calls: 12 MB in each process. They come here when somebody asks for them. Knows
nothing of the service; the package's ``__init__`` calls it before any of its modules imports the library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
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
    try:
        opcua = import_module("opcua")
    finally:
        for module in unneeded:
            del sys.modules[module]
    for names in _SERVER.values():
        for name in names:
            delattr(opcua, name)  # these are classes, to be inherited from: the package gets the real ones
    vars(opcua)["__getattr__"] = _server_attribute


def _on_first_call(module: str, name: str) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> object:
        return getattr(import_module(module), name)(*args, **kwargs)

    return call


def _server_attribute(name: str) -> object:
    for module, names in _SERVER.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'opcua' has no attribute {name!r}")
