#include "server/app/run.h"

int main(int argc, char** argv) { return sconce::Run(argc, argv); }
