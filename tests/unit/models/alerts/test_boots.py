"""Boots that alternate are two agents; boots that follow one another are restarts."""

from __future__ import annotations

from models.alerts.boots import OLD_BOOTS, QUIET_NS, BootWatch

S = 10**9
WINDOW = 60 * S


def see(watch: BootWatch, boots: str, *, start_s: int = 0, node: str = "n") -> int | None:
    found = None
    for second, boot in enumerate(boots):
        found = watch.see(node, boot, (start_s + second) * S, window_ns=WINDOW)
    return found


def test_restarts_say_nothing_however_many() -> None:
    assert see(BootWatch(), "aaabbbcccdddeeefffggg") is None


def test_each_return_counts_within_the_window() -> None:
    watch = BootWatch()
    assert see(watch, "ab") is None
    assert see(watch, "abab", start_s=2) == 4
    assert watch.boots("n") == 2
    assert see(watch, "b", start_s=64) == 1
    assert see(watch, "b", start_s=200) == 0
    assert see(watch, "b", start_s=6 + QUIET_NS // S) is None or see(watch, "b", start_s=8 + QUIET_NS // S) is None


def test_nodes_do_not_mix_and_memory_is_bounded() -> None:
    watch = BootWatch()
    see(watch, "ababab", node="one")
    assert see(watch, "a", node="two") is None
    see(watch, "".join(chr(200 + n) for n in range(500)), node="many")
    assert watch.boots("many") == 1 + OLD_BOOTS
    watch.forget("one")
    assert watch.boots("one") == 0 and see(watch, "a", node="one") is None
