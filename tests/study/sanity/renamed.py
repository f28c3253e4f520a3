"""The GRU under another name: the card must show no difference between this file and `gru`, in no row."""

from src.models.rnn import GRU


class Renamed(GRU):
    """It adds nothing, so that equal seeds give equal weights, equal outputs and equal scores."""
