// Memory that ncnn has freed and may want again: see heap.cpp.
#pragma once

namespace benchfarm {

// Gives what is kept back to the kernel: after a model was opened, what its making took is no part of its size.
void drop_kept_memory();

}  // namespace benchfarm
