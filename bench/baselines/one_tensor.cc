// sconce_one_tensor: what it takes to start a program that uses LibTorch's CPU half at all. Makes
// one tensor, prints "ready" and ends with its input.

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>

#include <iostream>

int main() {
  const at::Tensor one = at::ones({1});
  if (one.item<float>() != 1) return 1;
  std::cout << "ready" << std::endl;
  std::cin.get();
}
