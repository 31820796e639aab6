/* An ordinary program that never touches a GPU: built against glibc and against musl. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char** argv) {
  char* text = malloc(100);
  if (text == NULL) return 1;
  strcpy(text, "plain");
  pid_t child = fork();
  if (child == 0) {
    if (argc > 1) execv(argv[1], argv + 1);
    _exit(argc > 1 ? 127 : 0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  printf("%s %d\n", text, WEXITSTATUS(status));
  free(text);
  return WEXITSTATUS(status);
}
