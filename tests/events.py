"""What TensorBoard shows of a run."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def shown(out_dir: Path) -> EventAccumulator:
    """As TensorBoard reads the event files of a run, without those that a later attempt has hidden."""
    events = EventAccumulator(str(out_dir))
    events.Reload()
    return events
