"""MMoE: the heads of the shared bottom over a mixture of experts each (Ma et al., KDD 2018).

    f_k(x) = sum over i of softmax(W_k x)_i E_i(x)
    p_k    = sigmoid(t_k(f_k(x)))

x are the inputs after the cross layers; `model.cross_layers = 0` gives the paper's network, whose
experts read the embeddings as they are. The experts are in `model/experts.py`.
"""

from cmdcm.model.about import About
from cmdcm.model.shared_bottom import SharedBottom


class MMoE(SharedBottom):
    """Four independent heads, each over its own mixture of `model.experts` experts."""

    about = About(
        family="multi-task",
        source="Ma et al., KDD 2018",
        equation="f_k(x) = sum over i of softmax(W_k x)_i E_i(x) in place of f",
        assumes="as `shared_bottom`; tasks that differ in what they need of x",
        use="where tasks disturb each other; with `model.bottom = mmoe` in any model",
        cost="`experts` MLPs, a gate a head; no short cut for one user's candidates",
    )
    bottom = "mmoe"
