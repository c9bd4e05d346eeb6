"""What a net will cost before it runs: ``estimate``, with a profile of the machine."""

from __future__ import annotations

from ..errors import UsageError
from ..report.cost import cost_report, versus_report
from ..timing import DEFAULT, Profile, load_profile, predict
from .model import Model


def estimate(model: Model, profile: str | Profile = DEFAULT, vs: Model | None = None) -> dict:
    """The documented report of a model's costs and predicted time, beside another's if given.

    profile: a Profile, the path of one, or the name of a shipped one; ms are for the whole batch
    vs: a second model, of the same batch, whose layers are named after the first's
    """
    machine = profile if isinstance(profile, Profile) else load_profile(profile)
    report = cost_report(model, machine, predict(model.shapes, machine), model.net.warnings)
    if vs is None:
        return report
    other = cost_report(vs, machine, predict(vs.shapes, machine), vs.net.warnings)
    if report["batch"] != other["batch"]:
        raise UsageError(
            f"{report['file']} has batch {report['batch']} and {other['file']} {other['batch']}; "
            "give --batch to bring both to one"
        )
    return versus_report(report, other)
