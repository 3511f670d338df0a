"""The parity flow: does the online store answer what the offline store says it answers?"""

from __future__ import annotations

from datetime import datetime

from features.errors import ParityBroken
from features.parity import LEAST_AGREEMENT
from flows.moment import moment_of
from flows.platform_flow import platform_flow
from flows.stations import Facts
from flows.tasks import compare_stores
from infra.parity import SAMPLE


@platform_flow("parity")
def parity(name: str | None = None, sample: int = SAMPLE, now: datetime | None = None) -> list[Facts]:
    """Compare online answers with the offline store as of now; fail below 99.9 % agreement of any feature.

    Args:
        name: A feature group or service; empty for every group that is served online.
        sample: How many entities of each group are asked; others each day.
        now: The moment the run counts as; empty for the present.
    """
    facts = compare_stores(name, sample, moment_of(now))
    broken = [fact for fact in facts if not fact["ok"]]
    if broken:
        worst = min(broken, key=lambda fact: float(fact["agreement"]))
        raise ParityBroken(
            f"online and offline answers of {[fact['group'] for fact in broken]} differ: of {worst['group']!r} only "
            f"{worst['agreement']:.2%} agree in {worst['worst']!r}, less than {LEAST_AGREEMENT:.1%}; the command "
            f"`parity {worst['group']}` names entities; does anything else write to the online store?"
        )
    return facts
