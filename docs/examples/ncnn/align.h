// The crop that the models eat: the least-squares similarity that puts five landmarks on InsightFace's template.
#pragma once

// The matrix, 2 x 3 by rows, from a place in the crop to one in the picture: what ncnn::warpaffine_bilinear_c3 wants, and
// OpenCV's warpAffine with WARP_INVERSE_MAP. NCNN's get_affine_transform will not do: it sums squares of coordinates in floats,
// and of a face 1000 pixels from the picture's corner only rounding errors are left.
//
// landmarks: x and y in pixels of the eyes, the nose and the corners of the mouth, image-left first. side: 112, or 96.
// False when they do not span a face.
inline bool crop_to_picture(const float landmarks[10], int side, float matrix[6])
{
    static const double points[10] = {38.2946, 51.6963, 73.5318, 51.5014, 56.0252, 71.7366, 41.5493, 92.3655, 70.7299, 92.2041};
    const double scale = side / 112.0;
    double x = 0, y = 0, to_x = 0, to_y = 0;  // centres
    for (int i = 0; i < 10; i += 2)
    {
        x += landmarks[i] / 5;
        y += landmarks[i + 1] / 5;
        to_x += points[i] * scale / 5;
        to_y += points[i + 1] * scale / 5;
    }
    double spread = 0, cosine = 0, sine = 0;
    for (int i = 0; i < 10; i += 2)
    {
        const double from[2] = {landmarks[i] - x, landmarks[i + 1] - y};
        const double to[2] = {points[i] * scale - to_x, points[i + 1] * scale - to_y};
        spread += from[0] * from[0] + from[1] * from[1];
        cosine += from[0] * to[0] + from[1] * to[1];
        sine += from[0] * to[1] - from[1] * to[0];
    }
    const double square = cosine * cosine + sine * sine;
    if (!(square > 1e-9)) return false;
    cosine *= spread / square;
    sine *= spread / square;
    matrix[0] = float(cosine);
    matrix[1] = float(sine);
    matrix[2] = float(x - cosine * to_x - sine * to_y);
    matrix[3] = float(-sine);
    matrix[4] = float(cosine);
    matrix[5] = float(y + sine * to_x - cosine * to_y);
    return true;
}
