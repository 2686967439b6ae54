"""Which kernels are worth embedding among zeros (``bands.kernels``): where the arena falls by more than that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mcuprune.bands.kernels import embedded, rows_to_add
from mcuprune.costs.resources import RESOURCES, Additive, Terms
from mcuprune.deploy.lower import lower
from mcuprune.graph.network import Network


def sums(net: Network) -> dict[str, int]:
    """The resources of a network that add up over nodes."""
    terms = Terms(net, lambda tensor, axis: net.shapes[tensor][axis])
    return {name: int(sum(r.shares(terms).values())) for name, r in RESOURCES.items() if isinstance(r, Additive)}


def worthwhile(net: Network, limits: Mapping[str, int]) -> tuple[str, ...]:
    """The convolutions whose kernels are worth embedding, by name; none where none are.

    An arena is as large as its worst moment, so kernels count together: from all of them those are left out, one by one,
    without which the rest does better. They pay if the arena falls by more bytes than flash grows, and what is left of that is
    a larger share of the arena than the share by which multiply-accumulates grow.
    limits: of other resources, in base units; one that the network holds is held.
    """
    names = tuple(node.name for node in net.nodes if rows_to_add(node, net))
    own, arena = sums(net), lower(net).arena(offline=True).total

    def gain(chosen: Sequence[str]) -> float:
        """What is left of the arena's fall, as a share of it, when all is paid; below all where a limit isn't held."""
        in_embedding = embedded(net, chosen)
        costs = sums(in_embedding)
        if any(costs[name] > max(limit, own[name]) for name, limit in limits.items() if name in costs):
            return -float("inf")
        fall = arena - lower(in_embedding).arena(offline=True).total
        more = costs["flash"] - own["flash"]
        return (fall - more) / arena - (costs["macs"] - own["macs"]) / max(1, own["macs"])

    best = gain(names) if names else 0.0
    for name in names:
        rest = tuple(other for other in names if other != name)
        if rest and (without := gain(rest)) >= best:
            names, best = rest, without
    return names if best > 0 else ()
