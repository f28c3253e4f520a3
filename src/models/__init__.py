"""Sequence models. `MODELS` maps a name to a lazy entry; add a line here to add a layer."""

from src.registry import Entry

MODELS = {
    "transformer": Entry("src.models.transformer:Attention", "causal softmax attention, pre-norm, GELU MLP", "Vaswani et al. 2017; Radford et al. 2019"),
    "lstm": Entry("src.models.rnn:LSTM", "long short-term memory", "Hochreiter & Schmidhuber 1997"),
    "gru": Entry("src.models.rnn:GRU", "gated recurrent unit", "Cho et al. 2014"),
    "hybrid": Entry("src.models.hybrid:DefaultHybrid", "different layers in one model, by --layers", "after Lieber et al. 2024 (Jamba)"),
    "template": Entry("src.models.template:GatedConv", "gated causal convolution: the file to copy for a layer of your own", "after Dauphin et al. 2017"),
}
