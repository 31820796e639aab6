/* Storms under the preload: threads that look symbols up and start programs, a program that closes
   every descriptor, children of children. Exit code 0 or the number of the failing step. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void* Lookups(void* argument) {
  (void)argument;
  for (int i = 0; i < 3000; ++i) {
    errno = 77;
    if (dlsym(RTLD_DEFAULT, "malloc") == NULL) return (void*)1;
    if (dlsym(RTLD_DEFAULT, "cuInit") != NULL) return (void*)2;
    if (dlsym(RTLD_DEFAULT, "nvmlInit_v2") != NULL) return (void*)3;
    if (errno != 77) return (void*)4;
  }
  return NULL;
}

int main(int argc, char** argv) {
  if (argc > 1) return argv[1][0] == 'x' ? 0 : 9;
  pthread_t threads[8];
  for (int i = 0; i < 8; ++i) {
    if (pthread_create(&threads[i], NULL, Lookups, NULL) != 0) return 10;
  }
  for (int i = 0; i < 200; ++i) {
    pid_t child = fork();
    if (child == 0) {
      if (dlsym(RTLD_DEFAULT, "cuInit") != NULL) _exit(11);
      execl("/proc/self/exe", "storm", "x", (char*)NULL);
      _exit(12);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) {
      fprintf(stderr, "child %d ended with status 0x%x\n", i, status);
      return 13;
    }
  }
  for (int i = 0; i < 8; ++i) {
    void* result = NULL;
    pthread_join(threads[i], &result);
    if (result != NULL) return 20 + (int)(long)result;
  }
  for (int fd = 3; fd < 1024; ++fd) close(fd);
  if (dlsym(RTLD_DEFAULT, "cuInit") != NULL) return 30;
  pid_t grandparent = fork();
  if (grandparent == 0) {
    pid_t child = fork();
    if (child == 0) _exit(dlsym(RTLD_DEFAULT, "free") == NULL);
    int status = 0;
    waitpid(child, &status, 0);
    _exit(WEXITSTATUS(status));
  }
  int status = 0;
  waitpid(grandparent, &status, 0);
  return status == 0 ? 0 : 31;
}
