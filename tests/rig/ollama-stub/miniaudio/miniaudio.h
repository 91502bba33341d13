/* Stands in for the miniaudio header, which Ollama's Go module does not carry. It declares what
 * Ollama's multimodal code names, and every function fails: audio input is off, text is not
 * affected. */
#ifndef TAILHOP_RIG_MINIAUDIO_H
#define TAILHOP_RIG_MINIAUDIO_H

#include <stddef.h>

typedef int ma_result;
typedef unsigned long long ma_uint64;
typedef unsigned int ma_uint32;
typedef enum { ma_format_unknown, ma_format_f32 } ma_format;

#define MA_SUCCESS 0
#define MA_ERROR (-1)

typedef struct { int unused; } ma_decoder;
typedef struct { int unused; } ma_decoder_config;

static inline ma_decoder_config ma_decoder_config_init(ma_format format, ma_uint32 channels,
                                                       ma_uint32 sample_rate) {
    ma_decoder_config config = {0};
    (void)format, (void)channels, (void)sample_rate;
    return config;
}

static inline ma_result ma_decoder_init_memory(const void *data, size_t size,
                                               const ma_decoder_config *config,
                                               ma_decoder *decoder) {
    (void)data, (void)size, (void)config, (void)decoder;
    return MA_ERROR;
}

static inline ma_result ma_decoder_get_length_in_pcm_frames(ma_decoder *decoder,
                                                            ma_uint64 *length) {
    (void)decoder, (void)length;
    return MA_ERROR;
}

static inline ma_result ma_decoder_read_pcm_frames(ma_decoder *decoder, void *frames,
                                                   ma_uint64 count, ma_uint64 *read) {
    (void)decoder, (void)frames, (void)count, (void)read;
    return MA_ERROR;
}

static inline ma_result ma_decoder_uninit(ma_decoder *decoder) {
    (void)decoder;
    return MA_ERROR;
}

#endif
