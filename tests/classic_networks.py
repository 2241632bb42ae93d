"""ResNet, DenseNet, VGG, ResNeXt and MobileNet as their papers have them, of any width: what people have trained."""

import torch
from torch import nn
from torch.nn import functional as F


def conv_norm(inner, outer, kernel=3, stride=1, groups=1):
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer))


class Basic(nn.Module):
    """He et al., Deep residual learning, 2016: two 3 × 3 convolutions."""

    grows = 1

    def __init__(self, inner, width, stride, groups=1):
        super().__init__()
        self.first, self.last = conv_norm(inner, width, 3, stride), conv_norm(width, width)
        self.project = conv_norm(inner, width, 1, stride) if stride > 1 or inner != width else nn.Identity()

    def forward(self, x):
        return F.relu(self.last(F.relu(self.first(x))) + self.project(x))


class Bottleneck(nn.Module):
    """1 × 1, 3 × 3 (in groups: Xie et al., 2017), 1 × 1; adds in place, as trained models often do."""

    grows = 4

    def __init__(self, inner, width, stride, groups=1):
        super().__init__()
        outer = self.grows * width
        self.first, self.middle = conv_norm(inner, width, 1), conv_norm(width, width, 3, stride, groups)
        self.last = conv_norm(width, outer, 1)
        self.project = conv_norm(inner, outer, 1, stride) if stride > 1 or inner != outer else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.last(self.relu(self.middle(self.relu(self.first(x)))))
        out += x if self.project is None else self.project(x)
        return self.relu(out)


class PreActivation(nn.Module):
    """He et al., Identity mappings, 2016: the sum goes on as it is, and is thresholded on the way into a block."""

    grows = 1

    def __init__(self, inner, width, stride, groups=1):
        super().__init__()
        self.norm, self.norm_2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(width)
        self.first = nn.Conv2d(inner, width, 3, stride, 1, bias=False)
        self.last = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.project = nn.Conv2d(inner, width, 1, stride, bias=False) if stride > 1 or inner != width else None

    def forward(self, x):
        h = F.relu(self.norm(x))
        before = x if self.project is None else self.project(h)
        return before + self.last(F.relu(self.norm_2(self.first(h))))


class ResNet(nn.Module):
    def __init__(self, block, counts, width=4, groups=1):
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        blocks, inner = [], width
        for stage, count in enumerate(counts):
            for index in range(count):
                at = width * 2**stage
                blocks.append(block(inner, at, 2 if stage and not index else 1, groups))
                inner = at * block.grows
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(inner)
        self.head = nn.Linear(inner, 5)

    def forward(self, x):
        h = self.blocks(self.stem(x))
        if isinstance(self.blocks[0], PreActivation):
            h = F.relu(self.norm(h))
        return self.head(h.mean((2, 3)))


class DenseLayer(nn.Module):
    """Huang et al., Densely connected networks, 2017, with bottleneck."""

    def __init__(self, inner, growth):
        super().__init__()
        self.norm, self.norm_2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(4 * growth)
        self.squeeze = nn.Conv2d(inner, 4 * growth, 1, bias=False)
        self.grow = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat([x, self.grow(F.relu(self.norm_2(self.squeeze(F.relu(self.norm(x))))))], 1)


class DenseNet(nn.Module):
    def __init__(self, counts=(6, 12, 24, 16), growth=2):
        super().__init__()
        inner = 2 * growth
        parts = [*conv_norm(3, inner, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        for stage, count in enumerate(counts):
            if stage:
                parts += [nn.BatchNorm2d(inner), nn.ReLU(), nn.Conv2d(inner, inner // 2, 1), nn.AvgPool2d(2)]
                inner //= 2
            for _ in range(count):
                parts.append(DenseLayer(inner, growth))
                inner += growth
        self.features = nn.Sequential(*parts, nn.BatchNorm2d(inner), nn.ReLU())
        self.head = nn.Linear(inner, 5)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


def vgg_16(width=2):
    """Simonyan and Zisserman, 2015, with its dropout and its matrices."""
    parts, inner = [], 3
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for _ in range(count):
            outer = width * 2 ** min(stage, 3)
            parts += [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(inplace=True)]
            inner = outer
        parts.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(inner, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5)]
    return nn.Sequential(*parts, *head)


class InvertedResidual(nn.Module):
    """Sandler et al., MobileNetV2, 2018: depthwise, ReLU6, and no ReLU on the last convolution."""

    def __init__(self, width):
        super().__init__()
        self.expand, self.depthwise = conv_norm(width, 3 * width, 1), conv_norm(3 * width, 3 * width, 3, 1, 3 * width)
        self.project = conv_norm(3 * width, width, 1)

    def forward(self, x):
        return x + self.project(F.relu6(self.depthwise(F.relu6(self.expand(x)))))


def resnet_18():
    return ResNet(Basic, (2, 2, 2, 2))


def resnet_50():
    return ResNet(Bottleneck, (3, 4, 6, 3))


def pre_resnet_18():
    return ResNet(PreActivation, (2, 2, 2, 2))


def resnext():
    return ResNet(Bottleneck, (1, 1), groups=2)


def mobilenet():
    return nn.Sequential(*conv_norm(3, 4, 3, 2), nn.ReLU6(), InvertedResidual(4), InvertedResidual(4))
