"""Algorithms 2 and 3 and Eq. 5 as the paper prints them, with the weights of our networks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pursuitnet as pn


class LiteralMSD(nn.Module):
    """MSD-CSC as Algorithms 2 and 3 print it, with the weights of one of our networks without normalization."""

    def __init__(self, model: pn.Network, unfolding: int, fista: bool) -> None:
        super().__init__()
        self.unfolding, self.fista = unfolding, fista
        self.blocks, self.dilations = [], []
        self.filters, self.biases, self.steps = (nn.ParameterList() for _ in range(3))
        for module in model.features:
            layers = [m for m in module.modules() if isinstance(m, pn.PursuitLayer)]
            self.blocks.append([self._take(layer) for layer in layers] or module)
        self.head = nn.Linear(model.head.in_features, model.head.out_features)
        self.head.load_state_dict(model.head.state_dict())

    def _take(self, layer: pn.PursuitLayer) -> int:
        """Copy F, b and c of a layer; return its index."""
        convolution, threshold, c = layer.dictionary.dictionary, layer.threshold, layer.step()[0].detach().clone()
        beta = torch.cat([threshold.identity_penalty, threshold.penalty]).detach()
        self.filters.append(convolution.weight.detach().clone())
        self.biases.append((-c * beta).view(-1, 1, 1))
        self.steps.append(c)
        self.dilations.append(convolution.dilation[0])
        return len(self.steps) - 1

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if isinstance(block, nn.Module):
                x = block(x)
                continue
            for number in block:
                x = self._layer(number, x)
        return self.head(x.mean(dim=(2, 3)))

    def _layer(self, number: int, X: Tensor) -> Tensor:
        W, b, c, s = self.filters[number], self.biases[number], self.steps[number], self.dilations[number]
        w = len(W)
        code = before = F.relu(c * torch.cat([X, F.conv2d(X, W, padding=s, dilation=s)], 1) + b)
        t = 1.0
        for _ in range(self.unfolding):
            t, last = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
            Z = code + (last - 1) / t * (code - before) if self.fista else code
            f1 = Z[:, :-w] + F.conv_transpose2d(Z[:, -w:], W, padding=s, dilation=s) - X
            f2 = F.conv2d(f1, W, padding=s, dilation=s)
            f3 = torch.cat([f1, f2], 1)
            before, code = code, F.relu(Z - c * f3 + b)
        return code


class LiteralResidual(nn.Module):
    """Res-CSC as Eq. 5 prints it, Dᵀx and c·DᵀD·X₋₁ apart, without normalization."""

    def __init__(self, model: pn.Network) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        first, *blocks = self.model.features
        x = first(x)
        for block in blocks:
            code, previous, layer = block.first(x), block._shortcut(x), block.second
            D, c = layer.dictionary, -layer.step()[1]
            again = D.analyze(D.synthesize(previous, code.shape))
            x = layer.threshold((previous,), (D.analyze(code) + c * again,))[0]
        return self.model.head(x.mean(dim=(2, 3)))
