"""What of a source could not be decoded, by what ffmpeg said and by what came out."""

from __future__ import annotations

from collections.abc import Sequence

from longshore.sdk import PermanentError
from longshore_cpu_workers.tasks.transcoding.execution import Said
from longshore_cpu_workers.tasks.transcoding.params import Damage
from longshore_cpu_workers.tasks.transcoding.probe import Source

# What the lengths of a sound source and its rendition differ by: some frames, or the rounding of
# long ones. What a file says of its whole is of other streams, too.
_PICTURE = (0.5, 0.02)
_WHOLE = (1.0, 0.05)


def damage_of(source: Source, outputs: Sequence[Source], said: Said) -> Damage | None:
    """The damage, or None for a source that is whole as far as anybody can tell."""
    lost = 0.0
    if source.steady:
        picture = min(output.video_duration for output in outputs)
        lost = _missing(source.video_duration, picture, *_PICTURE)
        comparable = [o for o in outputs if source.audio_index is None or o.audio_index is not None]
        if comparable:
            whole = min(output.duration for output in comparable)
            lost = max(lost, _missing(source.duration, whole, *_WHOLE))
    if not said.errors and not lost:
        return None
    return Damage(errors=said.errors, first_error=said.first_error, lost_seconds=round(lost, 3))


def _missing(said: float, became: float, seconds: float, share: float) -> float:
    """How much shorter it became, if that is more than what is usual."""
    lost = said - became
    return lost if lost > max(seconds, share * said) else 0.0


def damaged(damage: Damage) -> PermanentError:
    """SOURCE_DAMAGED, for who does not accept it."""
    what = f"{damage.errors} errors ({damage.first_error})" if damage.errors else "no error"
    return PermanentError(
        f"the input 'video' is damaged: {what}, and {damage.lost_seconds:g} s of the picture are"
        " lost; mend the file, or set on_damage to accept",
        reason="SOURCE_DAMAGED",
        code="DATA_LOSS",
        metadata={"input": "video"},
    )
