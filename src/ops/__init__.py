"""Functions on tensors, one folder an op: the public function, a slow reference that defines it, and what computes it fast."""
