"""The members that laws quantify over. A new weighting is tested by its line here."""

import crossbatch as xb

WEIGHTINGS = {
    "contrastive": xb.Contrastive(0.3),
    "multi-similarity": xb.MultiSimilarity(base=0.3, beta=10.0),
    "multi-similarity, all pairs": xb.MultiSimilarity(base=0.3, beta=10.0, epsilon=None),
    "hardest triplet": xb.HardestTriplet(0.2),
    "assigned": xb.from_functions(lambda s: (1.5 - s) ** 2, lambda s: s.exp() * (s > 0.1)),
}
REDUCTIONS = ("sum_per_anchor", "mean_over_active_pairs")
