"""Laws of the operators' words on a compacted topic: what is left says to each cluster what all words said."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from streams.contract import codec
from streams.contract.intent_key import key_of, known_keys
from streams.contract.records import IntentKind, OperatorIntent
from streams.contract.signing import KeyRing, Signer
from streams.jobs.actuation_intents import IntentBook, RawIntent, take

SIGNER = Signer(SigningKey(bytes(32)), "operator")
RING = KeyRing({"operator": SigningKey(bytes(32)).verify_key})
S = 10**9
CLUSTERS = ("c1", "c2", "node")  # a name that is a word of scopes too
SCOPES = ("cluster", "node/n1", "node/c1:node/n1", "node/cluster", "gpu/G")
KINDS: dict[str, tuple[IntentKind, ...]] = {"cluster": ("pause", "resume"), "gpu/G": ("cap", "clear")}
ALL: tuple[IntentKind, ...] = ("pause", "resume", "cap", "clear")
Log = list[tuple[str, OperatorIntent]]


@st.composite
def words(draw: st.DrawFn) -> list[OperatorIntent]:
    """Words of several clusters in the order of their time, each second one."""
    out = []
    for turn in range(draw(st.integers(1, 12))):
        scope = draw(st.sampled_from(SCOPES))
        kind = draw(st.sampled_from(KINDS.get(scope, ALL)))
        out.append(word(draw(st.sampled_from(CLUSTERS)), scope, kind, at_s=turn))
    return out


def word(cluster: str, scope: str, kind: IntentKind, *, at_s: int) -> OperatorIntent:
    raw = OperatorIntent(
        cluster=cluster,
        scope=scope,
        intent_id=f"i{at_s}",
        ts_ns=at_s * S,
        actor="ada",
        kind=kind,
        reason="",
        max_power_w=300.0 if kind == "cap" else None,
    )
    return SIGNER.sign(raw)


def compacted(log: Log) -> Log:
    """What a broker keeps in the end: of each key the last word, in its place."""
    last = {key: at for at, (key, _) in enumerate(log)}
    return [entry for at, entry in enumerate(log) if last[entry[0]] == at]


def heard(cluster: str, log: Iterable[tuple[str, OperatorIntent]]) -> dict[tuple[str, str], OperatorIntent]:
    """The book of one cluster's worker that starts on this log."""
    book = IntentBook(cluster, lambda: RING)
    for offset, (key, said) in enumerate(log):
        assert take(book, RawIntent(offset, key.encode(), codec.encode(said), True), 100 * S) is None
    return {(said.scope, "pause" if said.kind in ("pause", "resume") else "cap"): said for said in book.all()}


@given(words())
@settings(max_examples=60, deadline=None)
def test_clusters_on_one_topic_do_not_disturb_each_other(said: list[OperatorIntent]) -> None:
    log = [(key_of(one), one) for one in said]
    for cluster in CLUSTERS:
        alone = [entry for entry in log if entry[1].cluster == cluster]
        assert heard(cluster, compacted(log)) == heard(cluster, alone)


@given(words(), st.data())
@settings(max_examples=60, deadline=None)
def test_one_cluster_s_words_hold_under_whatever_key_they_were_written(
    said: list[OperatorIntent], data: st.DataObject
) -> None:
    """An upgrade in the middle of a life, and one that is taken back: the last word holds."""
    own = [SIGNER.sign(msgspec.structs.replace(one, cluster="c1")) for one in said]
    # A bare scope was one key for pauses and caps: there compaction could lose a word, which is why it was given up.
    log = [(data.draw(st.sampled_from(known_keys(one)[:2])), one) for one in own]
    assert heard("c1", compacted(log)) == heard("c1", log)
    assert all(a.ts_ns < b.ts_ns for a, b in pairwise(own))


def test_without_the_cluster_in_the_key_a_pause_was_lost() -> None:
    """What the key is for."""
    ours, theirs = word("c1", "cluster", "pause", at_s=1), word("c2", "cluster", "resume", at_s=2)
    assert heard("c1", compacted([(known_keys(one)[1], one) for one in (ours, theirs)])) == {}
    assert heard("c1", compacted([(key_of(one), one) for one in (ours, theirs)])) == {("cluster", "pause"): ours}


def test_two_clusters_pause_and_only_one_resumes() -> None:
    log = [word("c1", "cluster", "pause", at_s=1), word("c2", "cluster", "pause", at_s=2)]
    log.append(word("c2", "cluster", "resume", at_s=3))
    kept = compacted([(key_of(one), one) for one in log])
    assert heard("c1", kept)["cluster", "pause"].kind == "pause"
    assert heard("c2", kept)["cluster", "pause"].kind == "resume"
