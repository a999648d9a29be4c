// A GPU in software, for a torch that was built without CUDA: tensors of the device "cuda" in memory of their own,
// computed by the kernels of the CPU. Operators that mix them with the host's tensors fail as they do on a GPU.
//
// Kernels of the CPU get tensors of the host over the same memory, and what they make becomes the device's.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

using at::Tensor;
using c10::IValue;

namespace {

const c10::Device GPU(c10::DeviceType::CUDA, 0);

int count_of_devices() {
  const char* asked = std::getenv("EMULATED_GPUS");
  return asked ? std::atoi(asked) : 1;
}

// Bytes that the device holds now, and the most it held.
std::atomic<int64_t> held{0}, peak{0};

void take(int64_t bytes) {
  auto now = held += bytes;
  for (auto most = peak.load(); now > most && !peak.compare_exchange_weak(most, now);) {
  }
}

struct Memory final : at::Allocator {
  struct Block {
    void* data;
    int64_t bytes;
  };
  at::DataPtr allocate(size_t bytes) override {
    auto* block = new Block{bytes ? std::malloc(bytes) : nullptr, static_cast<int64_t>(bytes)};
    take(block->bytes);
    return {block->data, block, &release, GPU};
  }
  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    held -= block->bytes;
    std::free(block->data);
    delete block;
  }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
};
Memory memory;

// One stream, on which all is done when it is asked for: nothing ever has to wait.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, c10::Device(c10::DeviceType::CUDA, 0)); }
  c10::DeviceIndex deviceCount() const noexcept override { return count_of_devices(); }
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Stream getStream(c10::Device) const noexcept override { return stream(); }
  c10::Stream getDefaultStream(c10::Device) const override { return stream(); }
  c10::Stream getNewStream(c10::Device, int) const override { return stream(); }
  c10::Stream getStreamFromGlobalPool(c10::Device, bool) const override { return stream(); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream(); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
c10::impl::DeviceGuardImplRegistrar guard(c10::DeviceType::CUDA, new Guard());

// Draws the host's numbers under the device's name.
struct Generator final : at::CPUGeneratorImpl {
  explicit Generator() : at::CPUGeneratorImpl(0) { device_ = GPU; }
  void be_on(c10::Device device) { device_ = device; }
};

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return count_of_devices(); }
  int getNumGPUs() const override { return count_of_devices(); }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::Device getDeviceFromPtr(void*) const override { return GPU; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  at::Allocator* getCUDADeviceAllocator() const override { return &memory; }
  void deviceSynchronize(c10::DeviceIndex) const override {}
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static at::Generator made = at::make_generator<Generator>();
    return made;
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
};

// A tensor of the other device over the same memory.
Tensor over(const Tensor& tensor, c10::Device device, int64_t new_bytes = 0) {
  struct Held {
    Tensor tensor;
    int64_t bytes;
  };
  take(new_bytes);
  auto release = [](void* context) {
    auto* kept = static_cast<Held*>(context);
    held -= kept->bytes;
    delete kept;
  };
  auto storage = tensor.storage();
  auto* allocator = device.is_cuda() ? static_cast<at::Allocator*>(&memory) : c10::GetCPUAllocator();
  at::DataPtr data(storage.mutable_data(), new Held{tensor, new_bytes}, release, device);
  auto made = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), storage.nbytes(), std::move(data), allocator, true);
  auto key = device.is_cuda() ? c10::DispatchKey::CUDA : c10::DispatchKey::CPU;
  auto result = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(made), c10::DispatchKeySet(key), tensor.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return result;
}

bool on_device(const Tensor& tensor) { return tensor.defined() && tensor.is_cuda(); }

// Every tensor inside an argument or a result, replaced by ``change(tensor)``.
template <typename Change>
IValue changed(const IValue& value, const Change& change) {
  if (value.isTensor()) return change(value.toTensor());
  if (!value.isList()) return value;
  auto list = value.toList();
  auto copy = c10::impl::GenericList(list.elementType());
  for (size_t place = 0; place < list.size(); ++place) copy.push_back(changed(list.get(place), change));
  return copy;
}

void by_the_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto begin = stack->size() - schema.arguments().size();
  const bool indexing = schema.name().find("index") != std::string::npos;
  std::vector<std::pair<Tensor, Tensor>> lent;  // of the host, of the device
  Generator* generator = nullptr;
  for (auto place = begin; place < stack->size(); ++place) {
    auto& value = (*stack)[place];
    if (value.isDevice()) value = c10::Device(c10::kCPU);
    if (value.isGenerator()) {
      TORCH_CHECK(value.toGenerator().device().is_cuda(), "Expected a 'cuda' generator but found one of the cpu");
      generator = static_cast<Generator*>(value.toGenerator().unsafeGetGeneratorImpl());
    }
    const bool indices = indexing && value.isOptionalTensorList();  // which may lie on the host
    value = changed(value, [&](const Tensor& tensor) {
      TORCH_CHECK(
          !tensor.defined() || tensor.is_cuda() || tensor.dim() == 0 || indices,
          "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
          schema.name(), " got a tensor of the host of ", tensor.sizes(), ")");
      if (!on_device(tensor)) return tensor;
      return lent.emplace_back(over(tensor, c10::kCPU), tensor).first;
    });
  }
  if (generator) generator->be_on(c10::kCPU);
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  if (generator) generator->be_on(GPU);
  for (auto& [host, device] : lent) {
    if (host.sizes() == device.sizes() && host.strides() == device.strides()) continue;
    auto resized = over(host, GPU, host.storage().nbytes());
    device.unsafeGetTensorImpl()->set_storage_keep_dtype(resized.storage());
    device.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  }
  for (auto place = stack->size() - schema.returns().size(); place < stack->size(); ++place) {
    (*stack)[place] = changed((*stack)[place], [&](const Tensor& tensor) {
      if (!tensor.defined() || tensor.is_cuda()) return tensor;
      for (auto& [host, device] : lent)
        if (host.is_same(tensor)) return device;
      return over(tensor, GPU, tensor.storage().nbytes());
    });
  }
}

Tensor empty(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>, std::optional<c10::MemoryFormat> format) {
  c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_generic(size, &memory, keys, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device>, std::optional<bool>) {
  c10::DispatchKeySet keys(c10::DispatchKey::CUDA);
  return at::detail::empty_strided_generic(size, stride, &memory, keys, c10::dtype_or_default(dtype));
}

Tensor& copy_(Tensor& self, const Tensor& source, bool) {
  auto host = [](const Tensor& tensor) { return on_device(tensor) ? over(tensor, c10::kCPU) : tensor; };
  if (!self.is_same(source)) host(self).copy_(host(source));
  return self;
}

Tensor as_strided(
    const Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

Tensor& set_storage(
    Tensor& self, c10::Storage source, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(source);
  impl->set_storage_offset(offset);
  stride.size() == size.size() ? impl->set_sizes_and_strides(size, stride) : impl->set_sizes_contiguous(size);
  return self;
}

Tensor& set_whole_storage(Tensor& self, c10::Storage source) {
  return set_storage(self, source, 0, {static_cast<int64_t>(source.nbytes() / self.dtype().itemsize())}, {});
}

Tensor& set_tensor(Tensor& self, const Tensor& source) {
  return set_storage(self, source.storage(), source.storage_offset(), source.sizes(), source.strides());
}

const Tensor& resize_(const Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat>) {
  at::native::resize_impl_cpu_(self.unsafeGetTensorImpl(), size, std::nullopt);
  return self;
}

c10::Scalar local_scalar_dense(const Tensor& self) { return over(self, c10::kCPU).item(); }

void record_stream(Tensor&, c10::Stream) {}

// Plain products: the CPU's kernel is chosen by another operator than a GPU's.
int64_t choose_attention(
    const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool, std::optional<double>,
    bool) {
  return 0;
}

// The bytes under a tensor of the device, as many as asked for: those that both sizes have are kept.
void resize_storage(const Tensor& tensor, int64_t bytes) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  auto data = memory.allocate(bytes);
  auto kept = std::min<size_t>(bytes, storage->nbytes());
  if (kept) std::memcpy(data.get(), storage->data(), kept);
  storage->set_data_ptr_noswap(std::move(data));
  storage->set_nbytes(bytes);
}

// DDP's reducer wants one; what it measures is not asked for.
struct Timer final : c10d::Timer {
  explicit Timer(c10::Device) {}
  std::optional<int64_t> measureDifference(Event, Event) override { return std::nullopt; }
};

}  // namespace

namespace c10d {
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, ::Timer);
}

namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
}

extern "C" int64_t emulated_peak() { return peak; }
extern "C" int64_t emulated_held() { return held; }
extern "C" void emulated_forget_peak() { peak = held.load(); }

TORCH_LIBRARY(emulated, m) { m.def("resize_storage(Tensor tensor, int bytes) -> ()", &resize_storage); }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("as_strided", &as_strided);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("resize_", &resize_);
  m.impl("record_stream", &record_stream);
  m.impl("_local_scalar_dense", &local_scalar_dense);
  m.impl("_fused_sdp_choice", &choose_attention);
}

// Collectives go to the process group's backend for the CPU, gloo.
TORCH_LIBRARY_IMPL(c10d, CUDA, m) {
  for (const char* name :
       {"allreduce_", "allreduce_coalesced_", "allgather_", "_allgather_base_", "allgather_coalesced_",
        "allgather_into_tensor_coalesced_", "reduce_", "reduce_scatter_", "_reduce_scatter_base_",
        "reduce_scatter_tensor_coalesced_", "broadcast_", "gather_", "scatter_", "alltoall_", "alltoall_base_",
        "barrier", "send", "recv_"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>());
}
