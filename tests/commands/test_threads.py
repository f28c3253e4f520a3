"""How many threads --threads 0 means. The size of the model decides, never the load of the machine."""

import pytest
import torch

from src.setup.plan import usual_threads

CPU = torch.device("cpu")


@pytest.mark.parametrize(("width", "threads"), [(8, 1), (64, 1), (65, 0), (384, 0)])
def test_a_narrow_model_gets_one_thread(width, threads):
    assert usual_threads(width, CPU, {}) == threads


def test_a_gpu_and_omp_num_threads_leave_the_choice_to_torch():
    assert usual_threads(8, torch.device("cuda"), {}) == 0
    assert usual_threads(8, CPU, {"OMP_NUM_THREADS": "2"}) == 0
    assert usual_threads(8, CPU, {"OMP_NUM_THREADS": ""}) == 1, "an empty variable counts as unset"
