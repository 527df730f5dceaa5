/* A stand-in for Triton's onnxruntime backend: hands each batch to a process of ours and takes what
 * it answers, so that the server's own scheduler, states and controls are the real ones.
 *
 * It is loaded as libtriton_onnxruntime.so. The socket's path is in TDRL_BACKEND_SOCKET. Numbers go
 * over it in the machine's byte order:
 *
 *   batch   = u32 requests, then each request
 *   request = u32 tensors, then each tensor (inputs there, outputs back)
 *   tensor  = u32 length, name, u32 type, u32 axes, i64 sizes, u64 bytes, data
 *
 * An output whose name starts with "state_" becomes the sequence's state, all others go to the caller.
 * Prototypes are those of the public header tritonbackend.h, with pointers left opaque.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

typedef void Error;
enum { INTERNAL = 1, RESPONSE_FINAL = 1, RELEASE_ALL = 1, IN_CPU_MEMORY = 0, MAX_AXES = 8, MAX_NAME = 128 };

Error *TRITONSERVER_ErrorNew(int code, const char *message);
Error *TRITONBACKEND_RequestInputCount(void *request, uint32_t *count);
Error *TRITONBACKEND_RequestInputByIndex(void *request, uint32_t index, void **input);
Error *TRITONBACKEND_InputProperties(void *input, const char **name, int *type, const int64_t **shape,
                                     uint32_t *axes, uint64_t *bytes, uint32_t *buffers);
Error *TRITONBACKEND_InputBuffer(void *input, uint32_t index, const void **buffer, uint64_t *bytes,
                                 int *memory, int64_t *memory_id);
Error *TRITONBACKEND_ResponseNew(void **response, void *request);
Error *TRITONBACKEND_ResponseOutput(void *response, void **output, const char *name, int type,
                                    const int64_t *shape, uint32_t axes);
Error *TRITONBACKEND_OutputBuffer(void *output, void **buffer, uint64_t bytes, int *memory,
                                  int64_t *memory_id);
Error *TRITONBACKEND_StateNew(void **state, void *request, const char *name, int type,
                              const int64_t *shape, uint32_t axes);
Error *TRITONBACKEND_StateBuffer(void *state, void **buffer, uint64_t bytes, int *memory,
                                 int64_t *memory_id);
Error *TRITONBACKEND_StateUpdate(void *state);
Error *TRITONBACKEND_ResponseSend(void *response, uint32_t flags, Error *error);
Error *TRITONBACKEND_RequestRelease(void *request, uint32_t flags);

#define FAIL(message) return TRITONSERVER_ErrorNew(INTERNAL, message)
#define TRY(call)                  \
    do {                           \
        Error *error_ = (call);    \
        if (error_) return error_; \
    } while (0)

static int peer = -1;

static Error *put(const void *data, uint64_t bytes) {
    const char *next = data;
    while (bytes > 0) {
        ssize_t done = write(peer, next, bytes);
        if (done <= 0) FAIL("the peer does not read");
        next += done;
        bytes -= (uint64_t)done;
    }
    return NULL;
}

static Error *get(void *data, uint64_t bytes) {
    char *next = data;
    while (bytes > 0) {
        ssize_t done = read(peer, next, bytes);
        if (done <= 0) FAIL("the peer does not answer");
        next += done;
        bytes -= (uint64_t)done;
    }
    return NULL;
}

static Error *put_number(uint32_t number) { return put(&number, sizeof number); }

static Error *put_input(void *input) {
    const char *name;
    const int64_t *shape;
    uint32_t axes, buffers;
    uint64_t bytes;
    int type;
    TRY(TRITONBACKEND_InputProperties(input, &name, &type, &shape, &axes, &bytes, &buffers));
    TRY(put_number((uint32_t)strlen(name)));
    TRY(put(name, strlen(name)));
    TRY(put_number((uint32_t)type));
    TRY(put_number(axes));
    TRY(put(shape, axes * sizeof *shape));
    TRY(put(&bytes, sizeof bytes));
    for (uint32_t index = 0; index < buffers; ++index) {
        const void *buffer;
        uint64_t part;
        int memory = IN_CPU_MEMORY;
        int64_t memory_id = 0;
        TRY(TRITONBACKEND_InputBuffer(input, index, &buffer, &part, &memory, &memory_id));
        if (memory != IN_CPU_MEMORY) FAIL("an input is not in the CPU's memory");
        TRY(put(buffer, part));
    }
    return NULL;
}

static Error *put_request(void *request) {
    uint32_t count;
    TRY(TRITONBACKEND_RequestInputCount(request, &count));
    TRY(put_number(count));
    for (uint32_t index = 0; index < count; ++index) {
        void *input;
        TRY(TRITONBACKEND_RequestInputByIndex(request, index, &input));
        TRY(put_input(input));
    }
    return NULL;
}

static Error *get_output(void *request, void *response) {
    char name[MAX_NAME] = {0};
    int64_t shape[MAX_AXES], memory_id = 0;
    uint32_t length, type, axes;
    uint64_t bytes;
    int memory = IN_CPU_MEMORY;
    void *target, *buffer;
    TRY(get(&length, sizeof length));
    if (length >= MAX_NAME) FAIL("a name is too long");
    TRY(get(name, length));
    TRY(get(&type, sizeof type));
    TRY(get(&axes, sizeof axes));
    if (axes > MAX_AXES) FAIL("too many axes");
    TRY(get(shape, axes * sizeof *shape));
    TRY(get(&bytes, sizeof bytes));
    if (strncmp(name, "state_", 6) != 0) {
        TRY(TRITONBACKEND_ResponseOutput(response, &target, name, (int)type, shape, axes));
        TRY(TRITONBACKEND_OutputBuffer(target, &buffer, bytes, &memory, &memory_id));
        return get(buffer, bytes);
    }
    TRY(TRITONBACKEND_StateNew(&target, request, name, (int)type, shape, axes));
    TRY(TRITONBACKEND_StateBuffer(target, &buffer, bytes, &memory, &memory_id));
    TRY(get(buffer, bytes));
    return TRITONBACKEND_StateUpdate(target);
}

static Error *run(void **requests, uint32_t count, void **responses) {
    TRY(put_number(count));
    for (uint32_t index = 0; index < count; ++index) TRY(put_request(requests[index]));
    for (uint32_t index = 0; index < count; ++index) {
        uint32_t outputs;
        TRY(get(&outputs, sizeof outputs));
        while (outputs-- > 0) TRY(get_output(requests[index], responses[index]));
    }
    return NULL;
}

static Error *connected(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("TDRL_BACKEND_SOCKET");
    if (!path || strlen(path) >= sizeof address.sun_path) FAIL("TDRL_BACKEND_SOCKET is not a path");
    strcpy(address.sun_path, path);
    peer = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(peer, (struct sockaddr *)&address, sizeof address) != 0) FAIL("nobody listens");
    return NULL;
}

Error *TRITONBACKEND_ModelInstanceInitialize(void *instance) {
    (void)instance;
    return connected();
}

Error *TRITONBACKEND_ModelInstanceExecute(void *instance, void **requests, uint32_t count) {
    void **responses = calloc(count, sizeof *responses);
    (void)instance;
    if (!responses) FAIL("out of memory");
    for (uint32_t index = 0; index < count; ++index)
        TRITONBACKEND_ResponseNew(&responses[index], requests[index]);
    Error *error = run(requests, count, responses);
    for (uint32_t index = 0; index < count; ++index) {
        Error *own = error ? TRITONSERVER_ErrorNew(INTERNAL, "the stand-in backend failed") : NULL;
        TRITONBACKEND_ResponseSend(responses[index], RESPONSE_FINAL, own);
        TRITONBACKEND_RequestRelease(requests[index], RELEASE_ALL);
    }
    free(responses);
    return NULL;
}
