// @source@
package main

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

func main() {
	router := gin.New()
	router.GET("/", func(c *gin.Context) { c.String(http.StatusOK, "hello") })
	_ = router.Run(":8080")
}
