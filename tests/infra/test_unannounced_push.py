"""A push that was logged by a process killed before LMDB announced it to readers comes online with the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from children import KILLED, ROOT
from features import Registry
from infra.wiring import connect
from unannounced_child import NOW, PAID, row


@pytest.mark.parametrize("next_one", ["push", "fold"])
def test_it_is_not_passed_over(tmp_path, next_one):
    with connect(Registry([PAID]), tmp_path, clock=lambda: NOW) as store:
        store.push(PAID, [row(1)])
        child = [sys.executable, str(ROOT / "tests/unannounced_child.py"), str(tmp_path), "2"]
        paths = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
        assert subprocess.run(child, env=paths, check=False).returncode == KILLED
        cards = [1, 2]
        if next_one == "push":
            store.push(PAID, [row(3)])
            cards.append(3)
        else:
            store.fold(PAID)
        answer = store.get_online_features(["paid:amount"], {"card_id": cards}).to_dict()
        assert answer["amount"] == [float(card) for card in cards]
        store.fold(PAID)
        assert sorted(store.current_rows(PAID).collect()["card_id"]) == cards
