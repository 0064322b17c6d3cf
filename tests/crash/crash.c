int crash_dummy(void); int crash_dummy(void){return 0;}
