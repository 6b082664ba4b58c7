"""The networks learn: one image by heart, and its error rather than the image."""

from __future__ import annotations

import pytest
import torch

from hpc_srct.models import NAMES, build


@pytest.mark.parametrize("name", NAMES)
def test_learns_one_image_by_heart(name):
    torch.manual_seed(0)
    model = build(name, width=8, depth=2)
    clean = torch.zeros(1, 1, 32, 32)
    clean[..., 8:24, 6:20] = 1.0
    noisy = clean + 0.3 * torch.randn_like(clean)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        loss = (model(noisy) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(0.09, rel=0.15)
    assert losses[-1] < 0.02 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_takes_part(name):
    """After the first step has moved the last layer, a gradient reaches every other one."""
    torch.manual_seed(0)
    model = build(name, width=4, depth=3)
    torch.nn.init.normal_(model.last.weight)
    model(torch.randn(2, 1, 24, 24)).square().mean().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key
