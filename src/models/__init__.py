"""Sequence models. `MODELS` maps a name to a lazy entry; add a line here to add a layer."""

from src.flags.registry import Entry

MODELS = {
    "transformer": Entry(
        "src.models.transformer:Attention",
        "causal softmax attention, pre-norm, GELU MLP",
        "Vaswani et al. 2017; Radford et al. 2019",
    ),
    "mamba": Entry(
        "src.models.mamba:Mamba", "selective state space (Mamba-1) behind a short convolution", "Gu & Dao 2023"
    ),
    "mamba2": Entry("src.models.mamba2:Mamba2", "selective state space with one decay a head (SSD)", "Dao & Gu 2024"),
    "linear_attention": Entry(
        "src.models.linear_attention:LinearAttention",
        "linear attention; feature map and decay to choose",
        "Katharopoulos et al. 2020",
    ),
    "retnet": Entry(
        "src.models.retnet:RetNet", "multi-scale retention: fixed decays, rotated queries and keys", "Sun et al. 2023"
    ),
    "gla": Entry(
        "src.models.gla:GLA", "gated linear attention: a learned decay for every key channel", "Yang et al. 2023"
    ),
    "deltanet": Entry(
        "src.models.deltanet:DeltaNet", "delta rule: a memory that erases before it writes", "Yang et al. 2024"
    ),
    "gated_deltanet": Entry(
        "src.models.deltanet:GatedDeltaNet",
        "delta rule with a learned decay a head and an output gate",
        "Yang et al. 2024",
    ),
    "lstm": Entry("src.models.rnn:LSTM", "long short-term memory", "Hochreiter & Schmidhuber 1997"),
    "gru": Entry("src.models.rnn:GRU", "gated recurrent unit", "Cho et al. 2014"),
    "hybrid": Entry(
        "src.models.hybrid:DefaultHybrid",
        "different layers in one model, by --layers",
        "after Lieber et al. 2024 (Jamba)",
    ),
    "template": Entry(
        "src.models.template:GatedConv",
        "gated causal convolution: the file to copy for a layer of your own",
        "after Dauphin et al. 2017",
    ),
}
