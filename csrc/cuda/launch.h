// Starts planned launches; free of torch and of CUDA's headers.
#pragma once

#include <string>

#include "../core/rate_plan.h"

namespace bitrate {

// What the plan has to know of a device. Throws std::runtime_error where CUDA fails.
DeviceLimits device_limits(int device);

// Why there is no code for the current device, in CUDA's words; empty where there is. Throws std::runtime_error where
// CUDA fails for any other reason.
std::string no_code_reason();

// Put on the stream; the current device is the stream's. Throw std::runtime_error where the launch fails.
void start(const Launch<ProjectParams>& launch, void* stream);
void start(const Launch<BackwardParams>& launch, void* stream);
void start_rate(const Launch<RateParams>& launch, bool backward, void* stream);
void start_network(const Launch<NetworkParams>& launch, void* stream);

}  // namespace bitrate
