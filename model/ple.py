"""PLE, progressive layered extraction: experts of a head beside shared ones.

Tang et al., RecSys 2020; the heads are those of the shared bottom.

Level j of task k, with its own experts and the shared ones side by side in S_kj, and x_k0 = x:

    x_kj = softmax(W_kj x_k(j-1)) S_kj(x_k(j-1), x_s(j-1))
    p_k  = sigmoid(t_k(x_kJ))

x_sj is what a gate over all experts of a level mixes for the shared experts of the next one. There
is one level for each number in `model.trunk_units`, whose experts have one layer of that width. The
experts are in `model/experts.py`.
"""

from cmdcm.model.about import About
from cmdcm.model.shared_bottom import SharedBottom


class PLE(SharedBottom):
    """Four independent heads over levels of `model.experts` shared experts and own ones."""

    about = About(
        family="multi-task",
        source="Tang et al., RecSys 2020",
        equation="as `mmoe`, with experts of each task beside the shared ones, in levels",
        assumes="as `mmoe`; some of what a task needs hurts the others",
        use="where MMoE's tasks still see-saw; with `model.bottom = ple` in any model",
        cost="`experts` + heads x `head_experts` experts a level, a gate each; no short cut",
    )
    bottom = "ple"
