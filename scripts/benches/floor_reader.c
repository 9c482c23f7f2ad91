/* The floor: reads N RTSP sessions interleaved over TCP with one epoll loop and throws the bytes away.
 *
 *   floor_reader PORT CAMERAS WARM_SECONDS SECONDS
 *
 * Cameras are cam-001 ... at 127.0.0.1, main stream. Prints one line of JSON: bytes read and user+system CPU seconds
 * within the measured seconds. No answer beyond PLAY's is looked at; it is a floor, not a client.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char buffer[256 * 1024];

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_s(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Sends a request and reads until the head of its answer is there. 0, or -1 for anything but 200. */
static int ask(int fd, const char *request, char *answer, size_t size) {
    size_t have = 0;
    if (write(fd, request, strlen(request)) != (ssize_t)strlen(request)) return -1;
    while (have + 1 < size) {
        ssize_t n = read(fd, answer + have, 1); /* one by one: what follows PLAY's answer is media */
        if (n <= 0) return -1;
        have += n;
        answer[have] = 0;
        if (have >= 4 && memcmp(answer + have - 4, "\r\n\r\n", 4) == 0)
            return strncmp(answer, "RTSP/1.0 200", 12) == 0 ? 0 : -1;
    }
    return -1;
}

static int open_camera(int port, int number) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    char request[512], answer[4096], session[128] = "";
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) return -1;
    snprintf(request, sizeof request,
             "SETUP rtsp://127.0.0.1:%d/cam-%03d/main/track1 RTSP/1.0\r\nCSeq: 1\r\n"
             "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n\r\n", port, number);
    if (ask(fd, request, answer, sizeof answer) < 0) return -1;
    char *at = strcasestr(answer, "\r\nSession:");
    if (at == NULL || sscanf(at + 10, " %127[^;\r\n]", session) != 1) return -1;
    snprintf(request, sizeof request,
             "PLAY rtsp://127.0.0.1:%d/cam-%03d/main RTSP/1.0\r\nCSeq: 2\r\nSession: %s\r\n\r\n", port, number, session);
    if (ask(fd, request, answer, sizeof answer) < 0) return -1;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return fd;
}

int main(int argc, char **argv) {
    struct epoll_event events[64];
    if (argc != 5) return 2;
    int port = atoi(argv[1]), cameras = atoi(argv[2]), poller = epoll_create1(0);
    double warm_s = atof(argv[3]), measured_s = atof(argv[4]);
    for (int number = 1; number <= cameras; number++) {
        int fd = open_camera(port, number);
        if (fd < 0) {
            fprintf(stderr, "floor_reader: camera %d: %s\n", number, strerror(errno));
            return 1;
        }
        struct epoll_event wanted = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
    }
    double start_s = now_s() + warm_s, end_s = start_s + measured_s, cpu_before_s = -1;
    long long bytes = 0;
    for (;;) {
        int ready = epoll_wait(poller, events, 64, 100);
        double t = now_s();
        if (cpu_before_s < 0 && t >= start_s) {
            cpu_before_s = cpu_s();
            bytes = 0;
        }
        if (t >= end_s) break;
        for (int i = 0; i < ready; i++) {
            ssize_t n = read(events[i].data.fd, buffer, sizeof buffer);
            if (n > 0) {
                bytes += n;
            } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
                fprintf(stderr, "floor_reader: a camera hung up\n");
                return 1;
            }
        }
    }
    printf("{\"bytes\": %lld, \"cpu_s\": %.4f, \"wall_s\": %.3f}\n", bytes, cpu_s() - cpu_before_s, now_s() - start_s);
    return 0;
}
