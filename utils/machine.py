"""Is a table of this machine, measured as it is judged now? What its sidecar tells."""

from typing import Any, Iterator, Mapping, Optional

MOST_DRIFT = 1.3  # by how much one machine's speed may differ from one session to the next


def alike(then_s: Optional[float], now_s: float) -> bool:
    """Can it be one machine, if the probe took then_s and takes now_s?"""
    return then_s is not None and 1 / MOST_DRIFT < now_s / then_s < MOST_DRIFT


def threads_of(note: Mapping[str, Any]) -> int:
    """The threads that a table's sidecar says it was measured with; 1 where it does not say."""
    found = note.get("threads")
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= 256 else 1


def differences(note: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Where a table was measured otherwise than it is judged now, in words: runtime, version, threads, device."""
    for key, value in now.items():
        if key in note and note[key] != value:
            yield f"measured with {key} {_plainly(note[key])}, judged with {_plainly(value)}"


def _plainly(value: Any) -> str:
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
