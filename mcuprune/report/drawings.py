"""What a notebook shows of networks, profiles, verdicts and groups: the tables and pictures of ``report``'s HTML.

Each is a piece of HTML that needs nothing else. Names come from a stranger's file and are escaped.
"""

from __future__ import annotations

from mcuprune import escape
from mcuprune.channels.labelling import Group
from mcuprune.costs import resources
from mcuprune.costs.resources import RESOURCES, Profile, Verdict
from mcuprune.errors import McupruneError
from mcuprune.graph.network import Network
from mcuprune.notebook import Drawn, draws
from mcuprune.report import profile as report
from mcuprune.report.profile import Answer, Report
from mcuprune.units import show


class Groups(tuple[Group, ...], Drawn):
    """The groups of channels of a network, in its order; of each the name, ``len`` as its width, and why it can't be cut."""

    def __repr__(self) -> str:
        return f"<Groups: {', '.join(f'{group.name!r} {len(group)}' for group in self)}>"

    @property
    def removable(self) -> tuple[Group, ...]:
        """The groups that pruning may narrow."""
        return tuple(group for group in self if group.removable)


@draws(Network)
def network_html(net: Network) -> str:
    """What the network costs, and where; or why that can't be said."""
    try:
        return profile_html(resources.profile(net))
    except McupruneError as error:
        return f"<p>{escape.markup(str(error))}</p>"


@draws(Profile)
def profile_html(profile: Profile) -> str:
    """Totals, the peak and what is alive there, memory over the schedule, and the costs of nodes."""
    return report.html_body(Report("profile", (Answer(profile),)))


@draws(Verdict)
def verdict_html(verdict: Verdict) -> str:
    """Used and limit of each resource."""
    rows = []
    for name, limit in verdict.limits.items():
        resource, used = RESOURCES[name], verdict.used[name]
        said = report.in_words(used, limit, resource.unit)
        rows.append([resource.title, show(used, resource.unit), show(limit, resource.unit), said])
    state = "fits" if verdict.ok else "does not fit"
    return f"<p><b>{state}</b></p>\n" + report.html_table(["", "used", "limit", "verdict"], ["<", ">", ">", "<"], rows)


@draws(Groups)
def groups_html(groups: Groups) -> str:
    """Width, name and nodes of each group."""
    rows = [[str(len(group)), group.name, ", ".join(group.nodes), group.why or ""] for group in groups]
    return report.html_table(["channels", "group", "nodes", "frozen because"], [">", "<", "<", "<"], rows)
