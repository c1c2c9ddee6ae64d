// What docs/examples/ncnn and docs/deployment.md use of NCNN 20261020, declared only: a compiler checks them where NCNN is not
// installed.
#pragma once
#include <cstddef>
#include <vector>

namespace ncnn {
struct Mat
{
    enum PixelType { PIXEL_RGB = 1, PIXEL_RGB2BGR = 1 | (2 << 16) };
    static Mat from_pixels(const unsigned char* pixels, int type, int w, int h);
    void substract_mean_normalize(const float* means, const float* norms);
    Mat reshape(int w) const;
    size_t total() const;
    operator const float*() const;
    float& operator[](size_t i);
    int w;
};
void kanna_rotate_c3(const unsigned char* src, int srcw, int srch, unsigned char* dst, int w, int h, int type);
void warpaffine_bilinear_c3(const unsigned char* src, int srcw, int srch, unsigned char* dst, int w, int h, const float* tm,
                            int type = 0, unsigned int v = 0);
struct Option
{
    int num_threads;
    bool use_fp16_packed, use_fp16_storage, use_fp16_arithmetic, use_bf16_storage;
};
struct Extractor
{
    int input(const char* blob, const Mat& in);
    int extract(const char* blob, Mat& feat);
};
struct Net
{
    Option opt;
    int load_param(const char* path);
    int load_model(const char* path);
    const std::vector<const char*>& input_names() const;
    const std::vector<const char*>& output_names() const;
    Extractor create_extractor() const;
};
}
