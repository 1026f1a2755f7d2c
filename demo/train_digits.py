#!/usr/bin/env python3
"""Trains the demo's handwritten-digit network and writes the three files beside this script.

digits_short.pth   weights after a few steps: right for most digits, wrong for many
digits_full.pth    weights after the whole training
digits_test.npz    the held-out test images (uint8, 0..16) and their labels

Needs torch and scikit-learn, which carries the 1,797 images (UCI, optical recognition of
handwritten digits). Seeded and single-threaded: with the same torch it writes the same weights.
The demo itself needs none of this; it uses the files as committed.
"""

import argparse
import pathlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

SEED = 20240611
TEST_IMAGES = 450
BATCH = 32


class DigitsNet(nn.Module):
    """8x8 grey images (pixel / 16) to 10 class scores."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc1 = nn.Linear(512, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(x)


def accuracy(net, images, labels):
    net.eval()
    with torch.inference_mode():
        right = (net(images).argmax(1) == labels).float().mean().item()
    net.train()
    return right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).parent)
    parser.add_argument("--short-steps", type=int, default=50)
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    digits = load_digits()
    raw = digits.images.astype(np.uint8)
    train_raw, test_raw, train_y, test_y = train_test_split(
        raw, digits.target, test_size=TEST_IMAGES, stratify=digits.target, random_state=SEED
    )
    train_x = torch.from_numpy(train_raw).float().div(16).unsqueeze(1)
    test_x = torch.from_numpy(test_raw).float().div(16).unsqueeze(1)
    train_y, test_labels = torch.from_numpy(train_y), torch.from_numpy(test_y)

    net = DigitsNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    steps = 0
    for epoch in range(args.epochs):
        order = torch.randperm(len(train_x))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad()
            F.cross_entropy(net(train_x[rows]), train_y[rows]).backward()
            optimizer.step()
            steps += 1
            if steps == args.short_steps:
                torch.save(net.state_dict(), args.out / "digits_short.pth")
                share = accuracy(net, test_x, test_labels)
                print(f"after {steps} steps: {share:.1%} of the test images right")

    torch.save(net.state_dict(), args.out / "digits_full.pth")
    share = accuracy(net, test_x, test_labels)
    print(f"after {steps} steps: {share:.1%} of the test images right")

    np.savez_compressed(
        args.out / "digits_test.npz", images=test_raw, labels=test_y.astype(np.uint8)
    )


if __name__ == "__main__":
    main()
