import simulated_encoder
import torch
from safetensors.torch import load_file

from zoobot.models.encoders import load_encoder
from zoobot.models.tree import ZoobotTree
from zoobot.runs import checkpoint


def test_an_encoder_is_written_small_and_loads_in_float32(tree, tmp_path):
    model = ZoobotTree(schema=tree, architecture_name="test_efficientnet")
    best = tmp_path / "best.safetensors"
    checkpoint.save_weights(best, model.state_dict(), model.describe())
    simulated_encoder.write(best, tmp_path / "small")
    written = load_file(tmp_path / "small" / "model.safetensors")
    kinds = {(weight.ndim > 1, weight.dtype) for weight in written.values() if weight.ndim}
    assert kinds == {(True, torch.bfloat16), (False, torch.float32)}
    encoder, _ = load_encoder(f"local-dir:{tmp_path / 'small'}")
    expected = model.encoder.state_dict()
    for name, weight in encoder.state_dict().items():
        assert weight.dtype == expected[name].dtype
        torch.testing.assert_close(weight, expected[name], rtol=2**-8, atol=0)
