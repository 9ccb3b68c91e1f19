"""How often `sscjax compare` finds a difference between two equally good models, by simulation.

    python scripts/evidence/type_one_error.py --studies=400

Patients differ in how hard they are, for both models and for each of them; images of a patient are
alike. Printed is the share of studies with p <= 0.05, per image and per subject, for the p of each
figure (the least and the greatest share), and for McNemar's exact test of images, which is not
offered for this reason.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from sscjax.evaluation import paired_tests
from sscjax.evaluation.predictions import Predictions

# Subjects of each class, and images of each; None: 2 to 60, log-uniform.
DESIGNS: tuple[tuple[tuple[int, ...], int | None], ...] = (
    ((8, 8, 8), 10),
    ((24, 20, 12), None),
    ((32, 4, 4), 10),
    ((16, 4), 10),
    ((7, 7, 6), None),
    ((20, 20), None),
    ((3, 3, 2), None),
)

FIGURES = ("accuracy", "balanced_accuracy", "macro_auroc", "quadratic_kappa", "log_loss", "auroc")


def main() -> None:
    """Simulate and print a table as Markdown, one row for each design."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400, help="studies of each design")
    parser.add_argument("--swaps", type=int, default=199, help="swaps drawn for each p")
    args = parser.parse_args()
    paired_tests.PERMUTATIONS = args.swaps
    print("| subjects by class | images each | p per image | p per subject | McNemar per image |")
    print("|---|---|---|---|---|", flush=True)
    for of_class, images in DESIGNS:
        rejected: dict[str, dict[str, int]] = {"image": {}, "subject": {}}
        naive = 0
        rng = np.random.default_rng(1)
        for study in range(args.studies):
            pair = models(rng, of_class, images)
            for unit, counts in rejected.items():
                first, second = pair if unit == "image" else [one.by_subject() for one in pair]
                for name, p in paired_tests.swap_test(first, second, True, study)[0].items():
                    if name.partition(" ")[0] in FIGURES:
                        counts[name] = counts.get(name, 0) + int(p <= 0.05)
            right = [one.predicted == one.labels for one in pair]
            alone = [int((right[k] & ~right[1 - k]).sum()) for k in (0, 1)]
            naive += sum(alone) > 0 and stats.binomtest(alone[0], sum(alone)).pvalue <= 0.05
        cells = ["/".join(map(str, of_class)), str(images or "2 to 60")]
        for counts in rejected.values():
            shares = [100 * count / args.studies for count in counts.values()]
            cells.append(f"{min(shares):.1f} to {max(shares):.1f} %")
        print(f"| {' | '.join(cells)} | {100 * naive / args.studies:.1f} % |", flush=True)


def models(
    rng: np.random.Generator, of_class: tuple[int, ...], images: int | None
) -> list[Predictions]:
    """Two equally good models on the same subjects.

    Args:
      rng: of everything random.
      of_class: subjects of each class.
      images: of each subject; None for 2 to 60.
    """
    subjects = sum(of_class)
    if images is None:
        counts = np.round(np.exp(rng.uniform(np.log(2), np.log(60), subjects))).astype(int)
    else:
        counts = np.full(subjects, images)
    owner = np.repeat(np.arange(subjects), counts)
    labels = np.repeat(np.arange(len(of_class)), of_class)[owner]
    skill = rng.normal(0.8, 0.7, subjects)
    tables = []
    for _ in range(2):
        logits = rng.normal(0, 1, (len(owner), len(of_class)))
        logits[np.arange(len(owner)), labels] += (skill + rng.normal(0, 1, subjects))[owner]
        odds = np.exp(logits)
        tables.append(
            Predictions(
                files=np.arange(len(owner)).astype(str),
                subjects=owner.astype(str),
                splits=np.full(len(owner), "test"),
                labels=labels,
                probabilities=odds / odds.sum(1, keepdims=True),
                classes=("normal", "early", "late")[: len(of_class)],
            )
        )
    return tables


if __name__ == "__main__":
    main()
