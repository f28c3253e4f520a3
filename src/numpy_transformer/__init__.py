"""An encoder-decoder Transformer in NumPy alone. Each forward pass has its hand-written backward pass beside it.

Read the files in the order in which the model is built:

    tokenization    a sentence becomes numbers, and numbers become a sentence
    pairs           the sentence pairs of a CSV, TSV or Parquet file
    datasets        pairs become padded batches
    mask            who may see whom
    layers          embedding, linear map, GELU, softmax, layer norm
    attention       one head, then several
    transformer     encoder, decoder, and both together
    losses          how wrong the model is, and the gradient of that
    optim           how the gradient changes the parameters
    decoding        from a model to a translation: greedy, and beam search
    loop            training, checkpoints, Ctrl-C and resume
    scores          what share of the translations is right

    python benchmark.py translate prepare --config src/numpy_transformer/configs/tiny_enfr.yaml
    python benchmark.py translate train --config src/numpy_transformer/configs/tiny_enfr.yaml
    python benchmark.py translate run --config src/numpy_transformer/configs/tiny_enfr.yaml --text "the cat sleeps."

Letters in shapes: B sentences of a batch, S source tokens, T target tokens, D width, H heads, K = D / H width of a
head, F hidden width of the feed-forward layer, V words of a vocabulary, N any number of rows. `...` is any leading
shape. Arrays are float32 (float64 for checks), ids are int32, masks are bool and True where something counts.

How a backward pass is written: `dy` is the gradient of the loss with respect to `y`. It has the shape of `y`.
Tests compare all of it with numeric gradients and with torch (tests/numpy_transformer).
"""
