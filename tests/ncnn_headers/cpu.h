// See net.h.
#pragma once

namespace ncnn {
int set_cpu_powersave(int powersave);
int get_big_cpu_count();
}
