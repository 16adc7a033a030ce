"""PEFT's Arrow over the first adapters of the work folder."""

import warnings

from peft import ArrowConfig, create_arrow_model

from turns import base


def arrow(work, model="neo-words", experts=10, top_k=2):
    paths = [f"{work}/adapters/e{i:03}" for i in range(experts)]
    config = ArrowConfig(top_k=top_k, router_temperature=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return create_arrow_model(
            base_model=base(f"{work}/{model}"),
            task_specific_adapter_paths=paths,
            arrow_config=config,
            autocast_adapter_dtype=False,
        ).eval()
