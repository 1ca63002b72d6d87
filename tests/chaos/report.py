"""The table of a run, for people, and the same in Markdown for docs/reliability.md."""

from __future__ import annotations

from rich.table import Table

from tests.chaos.ledger import Account
from tests.chaos.run import Outcome

_COLUMNS = (
    "fault",
    "times",
    "values sent",
    "written",
    "duplicated",
    "repeated",
    "in ledger",
    "given up",
    "unexplained",
    "broken",
)


def table(outcome: Outcome) -> Table:
    """One line a fault."""
    result = Table(title=f"chaos, seed {outcome.seed}, {outcome.seconds:.0f} s: {verdict(outcome)}")
    for column in _COLUMNS:
        result.add_column(column, justify="left" if column == "fault" else "right", no_wrap=True)
    for row in rows(outcome):
        result.add_row(*row)
    return result


def markdown(outcome: Outcome) -> str:
    """The same."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---|" + "---:|" * (len(_COLUMNS) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows(outcome)])


def rows(outcome: Outcome) -> list[list[str]]:
    """Texts of all lines: rounds of one fault by its name, those of two together, the sum."""
    named: dict[str, Account] = {}
    for name, account in sorted(outcome.accounts.items(), key=lambda item: (" + " in item[0], item[0])):
        named.setdefault("two at a time" if " + " in name else name, Account()).add(account)
    return [_row(name, account) for name, account in [*named.items(), ("all", outcome.total)]]


def verdict(outcome: Outcome) -> str:
    """In a word."""
    return "passed" if outcome.passed else "FAILED"


def _row(name: str, account: Account) -> list[str]:
    counts = (
        account.injected,
        account.sent,
        account.written,
        account.duplicated,
        account.repeated,
        account.in_ledger,
        account.given_up,
        account.unexplained,
        account.broken,
    )
    return [name, *(f"{count:,}" for count in counts)]
