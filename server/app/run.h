// The command `sconce`, from its arguments to its exit status: all of it but main, so that a test
// can start a process in which something else comes first (tests/support/sim_server).

#ifndef SCONCE_SERVER_APP_RUN_H_
#define SCONCE_SERVER_APP_RUN_H_

namespace sconce {

// What main returns, unless the process ends before. Called once, by the main thread.
int Run(int argc, char** argv);

}  // namespace sconce

#endif  // SCONCE_SERVER_APP_RUN_H_
