"""Sequence layers. `MODELS` maps a name to its class, which is imported when it is used; one line here adds a layer.

src/models/contract.py says what a layer must define, src/models/backbone.py is the model around it. To learn how the
recurrent layers work, read linear_attention.py, gla.py, deltanet.py, mamba.py and mamba2.py in this order, each with
the README of its op.
"""

from src.flags.registry import Entry

MODELS = {
    "transformer": Entry(
        "src.models.transformer:Attention",
        "causal softmax attention, pre-norm, GELU MLP",
        "Vaswani et al. 2017; Radford et al. 2019",
    ),
    "llama": Entry(
        "src.models.llama:Llama",
        "attention with rotary positions and shared keys, RMSNorm, SwiGLU, no biases",
        "Touvron et al. 2023; Ainslie et al. 2023",
    ),
    "mamba": Entry(
        "src.models.mamba:Mamba",
        "selective state space (Mamba-1) after a short convolution",
        "Gu & Dao 2023",
    ),
    "mamba2": Entry(
        "src.models.mamba2:Mamba2",
        "selective state space with one decay per head (SSD)",
        "Dao & Gu 2024",
    ),
    "linear_attention": Entry(
        "src.models.linear_attention:LinearAttention",
        "linear attention with a choice of feature map and decay",
        "Katharopoulos et al. 2020",
    ),
    "retnet": Entry(
        "src.models.retnet:RetNet",
        "multi-scale retention: one fixed decay per head, rotated queries and keys",
        "Sun et al. 2023",
    ),
    "gla": Entry(
        "src.models.gla:GLA",
        "gated linear attention: one learned decay per key channel",
        "Yang et al. 2023",
    ),
    "deltanet": Entry(
        "src.models.deltanet:DeltaNet",
        "delta rule: a memory that erases before it writes",
        "Yang et al. 2024",
    ),
    "gated_deltanet": Entry(
        "src.models.deltanet:GatedDeltaNet",
        "delta rule with one learned decay per head and an output gate",
        "Yang et al. 2024",
    ),
    "lstm": Entry(
        "src.models.rnn:LSTM",
        "long short-term memory",
        "Hochreiter & Schmidhuber 1997",
    ),
    "gru": Entry(
        "src.models.rnn:GRU",
        "gated recurrent unit",
        "Cho et al. 2014",
    ),
    "hybrid": Entry(
        "src.models.hybrid:DefaultHybrid",
        "different layers in one model, named by --layers",
        "after Lieber et al. 2024 (Jamba)",
    ),
    "small_transformer": Entry(
        "src.models.small_transformer:TransformerLM",
        "a small transformer to read: a whole model, nothing fused or cached",
        "after Vaswani et al. 2017; Radford et al. 2019",
    ),
    "template": Entry(
        "src.models.template:GatedConv",
        "gated causal convolution: the file to copy for a layer of your own",
        "after Dauphin et al. 2017",
    ),
}
