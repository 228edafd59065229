"""What verdicts on drafts come to, in one sentence."""

from collections.abc import Sequence

from orchestrator.bench.results.comparison import FEW_PAIRS, Verdict

# How verdicts are told, where all are of a kind and where they are not.
# `it` is what drafts.
_ALL_ALIKE = {
    "faster": "Yes, {it} is worth it here",
    "slower": "No, {it} costs more than it saves here",
    "same": "{It} makes no difference here that could be told from noise",
    "undrafted": "Whether {it} is worth it here is not known, as it was mostly not used",
    "unknown": "More rounds are needed to find out whether {it} is worth it here, {few} at least with "
    "--rounds, and time for them with --budget",
}
_MIXED = {
    "faster": "worth it",
    "same": "no difference beyond noise",
    "slower": "not worth it",
    "undrafted": "not known, as the draft was mostly not used,",
    "unknown": "not known without more rounds",
}

# Settings that draft without a model.
_TEXTS = {"ngram": "lookup in the text", "prediction": "a prediction"}


def answer(verdicts: Sequence[Verdict]) -> str:
    """Return one sentence that answers whether a draft, or lookup, is worth it on this machine."""
    if not verdicts:
        return "Nothing was measured that says whether a draft is worth it."
    kinds = ("faster", "same", "slower", "undrafted", "unknown")
    parts = {kind: [_part(each) for each in verdicts if each.kind == kind] for kind in kinds}
    known = [each.noise for each in verdicts if each.noise is not None]
    apart = f"; equal runs lay up to {max(known):.0%} apart" if known else ""
    for kind, words in _ALL_ALIKE.items():
        if len(parts[kind]) == len(verdicts):
            it = _what_drafts(verdicts)
            told_of = words.format(it=it, It=it[0].upper() + it[1:], few=FEW_PAIRS)
            return f"{told_of}: {_joined(parts[kind])}{apart}."
    told = [f"{words} {_joined(parts[kind])}" for kind, words in _MIXED.items() if parts[kind]]
    return f"It depends on how many streams share the machine: {'; '.join(told)}{apart}."


def _what_drafts(verdicts: Sequence[Verdict]) -> str:
    settings = {each.case[1] for each in verdicts}
    texts = [name for name in _TEXTS if name in settings]
    names = (["a draft"] if settings.difference(_TEXTS) else []) + [_TEXTS[name] for name in texts]
    return " or ".join(names)


def _part(verdict: Verdict) -> str:
    streams = "1 stream" if verdict.num_streams == 1 else f"{verdict.num_streams} streams"
    setting = setting_in_words(verdict.case[1])
    return f"with {streams} ({verdict.ratio:.2f} times the tokens/s of plain decoding, {setting})"


def setting_in_words(name: str) -> str:
    """Return a setting as it is told in a sentence."""
    if name.isdecimal():
        return "1 draft token" if name == "1" else f"{name} draft tokens"
    return _TEXTS.get(name, name)


def _joined(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]
