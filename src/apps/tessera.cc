#include "apps/up.h"
#include "cli/cli.h"

int main(int argc, char** argv) { return tessera::cli::Main(argc, argv, tessera::apps::Up); }
