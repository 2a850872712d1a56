"""The members that laws quantify over. A new weighting is tested by its line here."""

import crossbatch as xb

LOSSES = {
    "arcface": xb.ArcFace(0.2, 8.0),
    "binomial deviance": xb.BinomialDeviance(2.0, 10.0, 0.3),
    "circle": xb.Circle(0.4, 8.0),
    "contrastive": xb.Contrastive(0.3),
    "cosface": xb.CosFace(0.2, 8.0),
    "decoupled": xb.DecoupledContrastive(0.2),
    "fastap": xb.FastAP(7),
    "hardest triplet": xb.HardestTriplet(0.2),
    "lifted": xb.LiftedStructure(0.3, 3.0),
    "margin": xb.Margin(0.2, 0.9),
    "multi-similarity": xb.MultiSimilarity(base=0.3, beta=10.0),
    "multi-similarity, all pairs": xb.MultiSimilarity(base=0.3, beta=10.0, epsilon=None),
    "nca": xb.NCA(0.2),
    "npairs": xb.NPairs(4.0),
    "ntxent": xb.NTXent(0.2),
    "proxy anchor": xb.ProxyAnchor(5.0, 0.1),
    "ranked list": xb.RankedList(0.3, 1.1, 5.0),
    "released triplet": xb.ReleasedTriplet(0.1, 0.4),
    "supcon": xb.SupCon(0.2),
    "tuplet margin": xb.TupletMargin(0.1, 8.0),
}
COMBINATIONS = {
    "assigned": xb.from_functions(lambda s: (1.5 - s) ** 2, lambda s: s.exp() * (s > 0.1)),
    "assigned curves": xb.from_functions(xb.Ramp(-0.5, falling=True), xb.Ramp(0.2)),
    "balanced": xb.Balanced(xb.Contrastive(0.3)),
    "balanced supcon": xb.Balanced(xb.SupCon(0.2)),
    "clipped": xb.Clipped(xb.Margin(0.2, 0.9), 0.0, 1.1),
    "mixed": xb.Mixed(xb.MultiSimilarity(base=0.3, beta=10.0), xb.Contrastive(0.3), 0.25),
    "scheduled": xb.Scheduled(xb.NTXent(0.2), xb.Contrastive(0.3), 0, 10).at(5),
    "sides": xb.Sides(xb.SupCon(0.2), xb.MultiSimilarity(base=0.3, beta=10.0)),
    "sides of triplets": xb.Sides(xb.HardestTriplet(0.2), xb.ReleasedTriplet(0.1, 0.4)),
    "thresholded": xb.Thresholded(xb.SupCon(0.2), 0.2),
    "top 3": xb.TopK(xb.Contrastive(-1.0), 3),
    "top 2 of ntxent": xb.TopK(xb.NTXent(0.2), 2),
}
WEIGHTINGS = LOSSES | COMBINATIONS
REDUCTIONS = ("sum_per_anchor", "mean_over_active_pairs", "mean_over_anchors")
SINGULAR_AT_ONE = (xb.ArcFace, xb.FastAP, xb.TupletMargin)
"""Where the derivative at similarity 1 is a matter of definition."""
