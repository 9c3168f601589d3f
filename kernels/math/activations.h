// Scalar activations and gates, for host and device. Pure functions: any thread.
// NaN goes in, NaN comes out; nothing overflows on the way to a finite result.
#ifndef EVENFLOW_KERNELS_MATH_ACTIVATIONS_H_
#define EVENFLOW_KERNELS_MATH_ACTIVATIONS_H_

#include <cmath>

#include "kernels/math/host_device.h"
#include "kernels/operations.h"

namespace evenflow {

// 1 / (1 + e^-x)
EVENFLOW_HOST_DEVICE inline float Sigmoid(float x) {
  const float e = std::exp(-std::fabs(x));
  return (x >= 0 ? 1.0f : e) / (1.0f + e);
}

// x sigmoid(x)
EVENFLOW_HOST_DEVICE inline float Silu(float x) {
  return x * Sigmoid(x);
}

// max(x, 0)
EVENFLOW_HOST_DEVICE inline float Relu(float x) {
  return x < 0 ? 0.0f : x;
}

// elu(x) + 1: x + 1 above 0, e^x below.
EVENFLOW_HOST_DEVICE inline float Elu1(float x) {
  return x > 0 ? x + 1.0f : std::exp(x);
}

// x times the normal distribution's integral up to x
EVENFLOW_HOST_DEVICE inline float Gelu(float x) {
  return 0.5f * x * (1.0f + std::erf(x * 0.70710678f));
}

// ln(1 + e^x)
EVENFLOW_HOST_DEVICE inline float Softplus(float x) {
  return (x < 0 ? 0.0f : x) + std::log1p(std::exp(-std::fabs(x)));
}

// ln sigmoid(x)
EVENFLOW_HOST_DEVICE inline float LogSigmoid(float x) {
  return -Softplus(-x);
}

EVENFLOW_HOST_DEVICE inline float Tanh(float x) {
  return std::tanh(x);
}

// max(x, 0)^2
EVENFLOW_HOST_DEVICE inline float SquaredRelu(float x) {
  return Relu(x) * Relu(x);
}

EVENFLOW_HOST_DEVICE inline float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kSilu:
      return Silu(x);
    case Activation::kRelu:
      return Relu(x);
    case Activation::kElu1:
      return Elu1(x);
    case Activation::kSigmoid:
      return Sigmoid(x);
    case Activation::kTanh:
      return Tanh(x);
    case Activation::kSquaredRelu:
      return SquaredRelu(x);
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace evenflow

#endif  // EVENFLOW_KERNELS_MATH_ACTIVATIONS_H_
