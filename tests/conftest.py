"What pytest leaves out when it is run on all tests: a real browser is asked by `make browser` alone"
collect_ignore = ['browser']
