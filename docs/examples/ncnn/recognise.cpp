// Compare aligned faces with a model that `facezoo export --to ncnn` wrote.
//
//   ./recognise MODEL FACE.ppm FACE.ppm ...      cosine of each pair
//   ./recognise MODEL FACE.ppm                   the embedding, a number a line
//
// MODEL is the path without .param; faces are 112x112, binary PPM (P6). Latency goes to the standard error stream.
// Preprocessing and the runtime's options come from the sidecar MODEL.json, so that they are written down once.
// Needs NCNN and nothing else (make a .ppm with `convert face.jpg face.ppm`).

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu.h"
#include "net.h"

// The few values of the sidecar that a program needs, found by key: the file is flat where it matters.
class Sidecar
{
public:
    explicit Sidecar(const std::string& path)
    {
        std::ifstream file(path.c_str());
        if (!file)
            throw std::runtime_error(path + ": missing; it is written beside the model and says how to feed it");
        text.assign(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }

    // A number or truth value of a section ("preprocess", "options").
    double number(const std::string& section, const std::string& key, double otherwise) const
    {
        const std::string value = after(section, key);
        if (value.compare(0, 4, "true") == 0) return 1;
        if (value.compare(0, 5, "false") == 0) return 0;
        char* end = 0;
        const double found = std::strtod(value.c_str(), &end);
        return end == value.c_str() ? otherwise : found;
    }

    bool says(const std::string& section, const std::string& key, const std::string& value) const
    {
        return after(section, key).compare(0, value.size() + 2, "\"" + value + "\"") == 0;
    }

private:
    std::string after(const std::string& section, const std::string& key) const
    {
        const size_t begin = text.find("\"" + section + "\": {");
        if (begin == std::string::npos) return "";
        const std::string body = text.substr(begin, text.find('}', begin) - begin);
        const size_t at = body.find("\"" + key + "\": ");
        return at == std::string::npos ? "" : body.substr(at + key.size() + 4);
    }

    std::string text;
};

// RGB pixels of a binary PPM of the right size.
static std::vector<unsigned char> read_ppm(const std::string& path, int side)
{
    std::ifstream file(path.c_str(), std::ios::binary);
    std::string magic;
    int width = 0, height = 0, largest = 0;
    file >> magic >> width >> height >> largest;
    file.get();
    if (!file || magic != "P6" || largest != 255)
        throw std::runtime_error(path + ": not a binary PPM (P6, 255)");
    if (width != side || height != side)
        throw std::runtime_error(path + ": the model wants an aligned face of " + std::to_string(side) + " pixels a side");
    std::vector<unsigned char> pixels(size_t(3) * side * side);
    file.read(reinterpret_cast<char*>(pixels.data()), pixels.size());
    if (!file)
        throw std::runtime_error(path + ": cut off");
    return pixels;
}

class Recogniser
{
public:
    explicit Recogniser(const std::string& model) : sidecar(model + ".json")
    {
        const int powersave = int(sidecar.number("options", "powersave", 0));
        if (powersave) ncnn::set_cpu_powersave(powersave);
        const int threads = int(sidecar.number("options", "threads", 0));
        net.opt.num_threads = threads > 0 ? threads : ncnn::get_big_cpu_count();
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = sidecar.number("options", "fp16_storage", 0) != 0;
        net.opt.use_fp16_arithmetic = sidecar.number("options", "fp16_arithmetic", 0) != 0;
        net.opt.use_bf16_storage = sidecar.number("options", "bf16_storage", 0) != 0;
        if (net.load_param((model + ".param").c_str()) || net.load_model((model + ".bin").c_str()))
            throw std::runtime_error(model + ": NCNN cannot load it");
        side = int(sidecar.number("preprocess", "input_size", 112));
    }

    // Embedding of length 1 of RGB pixels.
    std::vector<float> operator()(const std::vector<unsigned char>& rgb) const
    {
        const int order = sidecar.says("preprocess", "colour", "BGR") ? ncnn::Mat::PIXEL_RGB2BGR : ncnn::Mat::PIXEL_RGB;
        ncnn::Mat image = ncnn::Mat::from_pixels(rgb.data(), order, side, side);
        const float mean = float(sidecar.number("preprocess", "mean", 127.5));
        const float norm = 1.f / float(sidecar.number("preprocess", "std", 127.5));
        const float means[3] = {mean, mean, mean}, norms[3] = {norm, norm, norm};
        image.substract_mean_normalize(means, norms);
        ncnn::Extractor extractor = net.create_extractor();
        extractor.input(net.input_names().front(), image);
        ncnn::Mat output;
        if (extractor.extract(net.output_names().back(), output))
            throw std::runtime_error("NCNN cannot run the model; .param and .bin may not belong together");
        output = output.reshape(int(output.total()));
        std::vector<float> embedding(static_cast<const float*>(output), static_cast<const float*>(output) + output.w);
        double square = 0;
        for (float value : embedding) square += double(value) * value;
        for (float& value : embedding) value = float(value / std::sqrt(std::max(square, 1e-30)));
        return embedding;
    }

    int side;

private:
    Sidecar sidecar;
    ncnn::Net net;
};

int main(int argc, char** argv)
{
    if (argc < 3)
    {
        std::fprintf(stderr, "usage: %s MODEL FACE.ppm [FACE.ppm ...]\n", argv[0]);
        return 2;
    }
    try
    {
        const Recogniser recognise(argv[1]);
        std::vector<std::vector<float> > embeddings;
        for (int i = 2; i < argc; i++)
            embeddings.push_back(recognise(read_ppm(argv[i], recognise.side)));
        if (embeddings.size() == 1)
            for (float value : embeddings[0]) std::printf("%.8g\n", value);
        for (size_t i = 0; i + 1 < embeddings.size(); i++)
            for (size_t j = i + 1; j < embeddings.size(); j++)
            {
                double cosine = 0;
                for (size_t k = 0; k < embeddings[i].size(); k++) cosine += double(embeddings[i][k]) * embeddings[j][k];
                std::printf("%s %s %.6f\n", argv[i + 2], argv[j + 2], cosine);
            }
        std::vector<double> times;
        const std::vector<unsigned char> face = read_ppm(argv[2], recognise.side);
        for (int i = 0; i < 50; i++)
        {
            const std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();
            recognise(face);
            times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - began).count());
        }
        std::sort(times.begin(), times.end());
        std::fprintf(stderr, "p50 %.2f ms, p90 %.2f ms\n", times[25], times[45]);
    }
    catch (const std::exception& error)
    {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
