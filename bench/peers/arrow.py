"""PEFT's Arrow over the first adapters of the work folder, with exact prototypes."""

import warnings

import torch
from peft import ArrowConfig, create_arrow_model

from turns import base


def top_direction(a, b):
    """The unit vector that B A stretches most, for A `[r, in]` and B `[out, r]`.

    With A^T = Qa Ra and B = Qb Rb it is Qa times the first right-singular vector of Rb Ra^T.
    """
    qa, ra = torch.linalg.qr(a.T.double())
    _, rb = torch.linalg.qr(b.double())
    _, _, vh = torch.linalg.svd(rb @ ra.T)
    direction = qa @ vh[0]
    return direction / direction.norm()


@torch.no_grad()
def exact_prototypes(model):
    """Puts exact directions where PEFT would put 15 power iterations from a random start.

    Those end up elsewhere in each run where the first two singular values are close, and another
    direction is another choice of experts: what would be compared is the iteration's error.
    """
    layers = 0
    for module in model.modules():
        for arrow in getattr(module, "lora_arrow", {}).values():
            rows = []
            for name in arrow.task_adapter_names:
                a, b = module.lora_A[name].weight, module.lora_B[name].weight
                rows.append(top_direction(a, b).to(dtype=a.dtype, device=a.device))
            arrow.register_buffer("prototypes", torch.stack(rows), persistent=False)
            # What `build_prototypes` asks before it iterates.
            arrow._protos_ready = True
            layers += 1
    assert layers > 0, "this version of PEFT keeps its Arrow elsewhere"
    return model


def arrow(work, model="neo-words", experts=10, top_k=2):
    paths = [f"{work}/adapters/e{i:03}" for i in range(experts)]
    config = ArrowConfig(top_k=top_k, router_temperature=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        routed = create_arrow_model(
            base_model=base(f"{work}/{model}"),
            task_specific_adapter_paths=paths,
            arrow_config=config,
            autocast_adapter_dtype=False,
        ).eval()
    return exact_prototypes(routed)
