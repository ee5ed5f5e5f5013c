"""Methods that both sides have: the greatest difference of their ends on grid A, in float64.

Both sides get the identical array of sigmas. Ours end as the peer does: with a denoising step from
the last sigma above 0, or with a step of the method itself to sigma = 0 (k-diffusion's LMS).
"""

from __future__ import annotations

import argparse
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from benchmarks import ours, peers, problems, report
from sdejax.samplers.adams import deis, lms
from sdejax.samplers.ancestral import ddim
from sdejax.samplers.base import Sampler
from sdejax.samplers.dpm_solver import dpmpp_2m, dpmpp_3m
from sdejax.samplers.singlestep import dpm_solver, dpmpp_singlestep
from sdejax.samplers.unipc import unipc

SIGMAS = (6, 10, 20, 50)  # sigmas above 0
GOAL = 1e-5


class Pair(NamedTuple):
    """One of ours and one of theirs, over one grid."""

    ours: Sampler
    peer: str
    denoise: bool = True  # ours: a denoising step, rather than a step to sigma = 0


PAIRS: dict[str, Pair] = {
    "Euler in noise coordinates = DDIM": Pair(ddim(), "k/euler"),
    "DDIM to sigma = 0": Pair(ddim(), "k/euler", False),
    **{f"LMS-{p}": Pair(lms(p), f"k/lms_{p}", False) for p in (2, 3, 4)},
    "DPM-Solver-2": Pair(dpm_solver(2), "k/dpm_2"),
    "DPM-Solver++(2S)": Pair(dpmpp_singlestep(2), "k/dpmpp_2s"),
    "DPM-Solver++(2M)": Pair(dpmpp_2m(), "k/dpmpp_2m"),
    "DPM-Solver++(3M)": Pair(dpmpp_3m(), "k/dpmpp_3m"),
    **{f"UniPC-{p} bh2": Pair(unipc(p, lower_final=True), f"d/unipc_{p}") for p in (1, 2, 3)},
    **{
        f"UniPC-{p} bh1": Pair(unipc(p, "bh1", lower_final=False), f"d/unipc_{p}_bh1{end}")
        for p, end in ((1, ""), (2, "_full"), (3, "_full"))
    },
    **{
        f"DEIS-{p}": Pair(deis(p), f"d/deis_{p}{end}")
        for p, end in ((1, ""), (2, "_full"), (3, "_full"))
    },
    "DPM-Solver++(2M), float32 peer": Pair(dpmpp_2m(), "d/dpmpp_2m"),
}


def parity(args: argparse.Namespace) -> tuple[list[str], list[dict]]:
    """The table: greatest difference over points, in units of the data's sd.

    Args:
        args: options of ``benchmarks.accuracy``.

    Returns:
        Markdown sections, and the figures.
    """
    rows, data = [], []
    names = [name for name in args.problems if name in ("G2", "D16")] or args.problems[:1]
    for label, pair in tqdm(PAIRS.items(), desc="parity"):
        row = [label, pair.peer]
        for name in names:
            problem = problems.PROBLEMS[name]()
            z = problems.noise(problem, min(args.points, 64), args.seed)
            for n in SIGMAS:
                sigmas = np.append(problems.karras(n, low=args.sigma_min), 0.0)
                theirs, _ = peers.run(peers.PEERS[pair.peer], problem, z, sigmas)
                ts = sigmas[:-1] if pair.denoise else sigmas
                mine = ours.run(pair.ours, problem, z, ts, most=max(SIGMAS), denoise=pair.denoise)
                gap = float(np.max(np.abs(mine - theirs)) / problem.sd)
                row.append(report.number(gap, 2))
                data.append({"pair": label, "peer": pair.peer, "problem": name, "n": n, "gap": gap})
        rows.append(row)
    head = ["method", "peer", *(f"{name}, {n} sigmas" for name in names for n in SIGMAS)]
    met = sorted({d["pair"] for d in data if not d["gap"] <= GOAL})
    note = f"Goal {GOAL:g}. Above it: {', '.join(met) or 'none'}.\n"
    return [
        "Greatest difference over points and coordinates / sd.\n",
        report.table(head, rows),
        note,
    ], data
