"""The variables of the environment, by subject: type, default, range, unit, and what each is for.

`scada_trio.config.Settings` is made of them and reads them; docs/configuration.md and ``.env.example`` are made of its
bases, in their order, by ``scripts/generate_configuration.py``.
"""

from __future__ import annotations

from scada_trio.variables.certificates import CertificateVariables
from scada_trio.variables.databases import DatabaseVariables
from scada_trio.variables.devices import DeviceVariables
from scada_trio.variables.journal import BatchVariables, JournalVariables
from scada_trio.variables.process import ProcessVariables
from scada_trio.variables.retention import RetentionVariables
from scada_trio.variables.servers import ServerVariables

__all__ = [
    "BatchVariables",
    "CertificateVariables",
    "DatabaseVariables",
    "DeviceVariables",
    "JournalVariables",
    "ProcessVariables",
    "RetentionVariables",
    "ServerVariables",
]
