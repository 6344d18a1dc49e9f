#!/usr/bin/env python3
"""What training by many machines would come to, calculated: the tables of docs/distributed.md.

    tools/distributed_plan.py

A step of a rank is: its share of the tokens; what a step costs whatever its tokens; the update of the pieces it owns,
which are dealt out as src/train/pieces.c does it; and its bytes over the network, none of them hidden. The figures
under "measured" are of one core (docs/distributed.md tells how); a machine of 32 cores is taken to be 32 of them.
"""

from dataclasses import dataclass

# ---- measured, one core of an AMD processor with AVX-512 and bf16 (Zen 4) --------------------------------------------

TOKEN = {"small": 0.27e-3, "base": 3.04e-3}  # seconds of a token, both ways
STEP = {"small": 0.172, "base": 5.71}  # seconds of a step but for its tokens, its whole update included
MULTIPLY = 270e9  # operations of Newton-Schulz a second
MEMORY = 14e9  # bytes of AdamW a second: half of what two cores reach

# ---- the network -----------------------------------------------------------------------------------------------------

NOMINAL = {"10 Gbit/s": 10e9, "100 Gbit/s": 100e9}
USABLE = 0.9  # of the nominal rate, each way
TOKENS_OF_A_SEQUENCE = 183

# ---- models: presets with vocabulary 8,192, 256 positions, time "none" -----------------------------------------------


@dataclass
class Model:
    channels: int
    depth: int
    vocabulary: int = 8192
    positions: int = 256

    def matrices(self) -> list[tuple[int, int]]:
        """Muon's."""
        c = self.channels
        return [(3 * c, c), (c, c), (4 * c, c), (c, 4 * c)] * self.depth

    def rest(self) -> int:
        """Parameters that are AdamW's."""
        c, v = self.channels, self.vocabulary
        biases, modulation = 3 * c + c + 4 * c + c, 6 * c
        return self.positions * c + v * c + self.depth * (biases + modulation) + 2 * c + v * c + v

    def parameters(self) -> int:
        return sum(a * b for a, b in self.matrices()) + self.rest()


MODELS = {"small": Model(256, 8), "base": Model(768, 12)}

# ---- who owns what (src/train/pieces.c) ------------------------------------------------------------------------------

OPERATIONS_PER_BYTE, CUTS = 27.0, 4


def newton_schulz(shape: tuple[int, int]) -> float:
    """Operations of five steps, both halves of symmetric products counted."""
    k, n = sorted(shape)
    return 5 * 2 * k * k * (2 * n + k)


def owners(model: Model, ranks: int) -> list[tuple[int, float, float]]:
    """Of each rank: parameters, operations of Newton-Schulz, bytes of AdamW."""
    pieces = [(newton_schulz(shape), shape[0] * shape[1], True) for shape in model.matrices()]
    cut = -(-model.rest() // (ranks * CUTS))
    for at in range(0, model.rest(), cut):
        n = min(cut, model.rest() - at)
        pieces.append((OPERATIONS_PER_BYTE * 36 * n, n, False))
    loads = [0.0] * ranks
    owned = [(0, 0.0, 0.0)] * ranks
    for cost, n, matrix in sorted(pieces, key=lambda piece: -piece[0]):
        r = loads.index(min(loads))
        loads[r] += cost
        p, operations, bytes_ = owned[r]
        owned[r] = (p + n, operations + cost * matrix, bytes_ + 36 * n * (not matrix))
    return owned


# ---- a step ----------------------------------------------------------------------------------------------------------


def update(owned: tuple[int, float, float]) -> float:
    """Seconds of a core. Muon's matrices are read and written besides."""
    _, operations, bytes_ = owned
    return operations / MULTIPLY + bytes_ / MEMORY


def bytes_of(model: Model, ranks: int, own: int) -> int:
    """What a rank waits for, one way: the gradients of its pieces from all others while it sends those of theirs; and
    then the same the other way round with weights. Of what comes and goes at the same time the larger counts."""
    return 2 * 4 * max(own * (ranks - 1), model.parameters() - own)


def busiest(model: Model, ranks: int) -> int:
    return max(bytes_of(model, ranks, own) for own, _, _ in owners(model, ranks))


def seconds(name: str, ranks: int, tokens: float, cores: int, rate: float) -> tuple[float, float]:
    """Computing and sending of a step of so many tokens in all."""
    model = MODELS[name]
    own = owners(model, ranks)
    whole = update(owners(model, 1)[0])
    fixed = max(0.0, STEP[name] - whole)
    compute = (tokens / ranks * TOKEN[name] + fixed + max(map(update, own))) / cores
    send = 8 * busiest(model, ranks) / (USABLE * rate) if ranks > 1 else 0.0
    return compute, send


def table(head: list[str], rows: list[list[str]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


def duration(s: float) -> str:
    return f"{s:.3g} s"


def main() -> None:
    machines = {"two cores": 2, "32 cores": 32}
    both = [(name, net) for name in MODELS for net in NOMINAL]

    head = ["N = 64", "parameters", "bytes a step, evenly", "of the busiest rank", *(f"that at {net}" for net in NOMINAL)]
    rows = []
    for name, model in MODELS.items():
        most = busiest(model, 64)
        even = 8 * model.parameters() * 63 / 64
        times = [duration(8 * most / (USABLE * rate)) for rate in NOMINAL.values()]
        rows.append([name, f"{model.parameters() / 1e6:.1f} M", f"{even / 1e6:,.0f} MB", f"{most / 1e6:,.0f} MB", *times])
    table(head, rows)

    print("Weak scaling, 64 machines, 32 sequences on each: the share of the time that is computing\n")
    rows = []
    for machine, cores in machines.items():
        shares = []
        for name, net in both:
            compute, send = seconds(name, 64, 64 * 32 * TOKENS_OF_A_SEQUENCE, cores, NOMINAL[net])
            shares.append(f"{100 * compute / (compute + send):.0f} %")
        rows.append([machine, *shares])
    table(["machine", *(f"{name}, {net}" for name, net in both)], rows)

    print("Strong scaling, 512 sequences in a step, machines of 32 cores: seconds a step, and times one machine\n")
    rows = []
    for ranks in (1, 4, 16, 32, 64):
        cells = []
        for name, net in both:
            one = sum(seconds(name, 1, 512 * TOKENS_OF_A_SEQUENCE, 32, NOMINAL[net]))
            now = sum(seconds(name, ranks, 512 * TOKENS_OF_A_SEQUENCE, 32, NOMINAL[net]))
            cells.append(f"{now:.3g}" + (f", {one / now:.0f} x" if ranks > 1 else ""))
        rows.append([str(ranks), *cells])
    table(["N", *(f"{name}, {net}" for name, net in both)], rows)

    print("Tokens of a rank in a step with which sending (N = 64) takes as long as computing\n")
    rows = []
    for machine, cores in machines.items():
        cells = []
        for name, net in both:
            compute, send = seconds(name, 64, 0, cores, NOMINAL[net])
            cells.append(f"{max(0.0, send - compute) * cores / TOKEN[name]:,.0f}")
        rows.append([machine, *cells])
    table(["machine", *(f"{name}, {net}" for name, net in both)], rows)


if __name__ == "__main__":
    main()
